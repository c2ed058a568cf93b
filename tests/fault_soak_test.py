"""Random kills for minutes: nothing is lost, changed or left behind. BRAID_SOAK_MINUTES says how many (default 5)."""
import os

from faults.soak import soak


def test_soak():
    figure = soak(requests=10**9, minutes=float(os.environ.get("BRAID_SOAK_MINUTES", "5")), seed=1, progress=print)
    print(f"{figure.name}: {figure.value}; {figure.note}")
    found = figure.data
    assert (found["lost"], found["changed"], found["dishonest"]) == (0, 0, 0), found["examples"]
    assert not found["left_behind"], (found["resources_before"], found["resources_after"])
    assert found["kills"] > 0 and found["accepted"] > 0
