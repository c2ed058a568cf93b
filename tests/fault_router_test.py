"""P2 on real processes: the router is killed with kill -9 in the middle of answers and started again on its port.

Its memory is gone; gateways send their requests again with the tokens so far, workers attach again.
"""
import time

import pytest

from cluster import Cluster
from faults.client import ask_together
from faults.workload import TOKENS, WORKLOADS

POINTS = range(3, TOKENS, 6)  # more than ten tokens to die at
PAUSE_S_MAX = 10  # beyond its absence; on a busy machine, the benchmark measures
DOWN_S = [0, 0, 0.5, 0, 1.5]  # how long it stays away, in turn


@pytest.mark.parametrize("model", WORKLOADS)
def test_the_router_is_killed_in_the_middle_of_answers(model):
    workload, pauses = WORKLOADS[model](), []
    with Cluster(workers=2, model=workload.model) as cluster:
        for number, token in enumerate(POINTS):
            killed_at = []

            def kill():
                killed_at.append(time.monotonic())
                cluster.kill("router")
                time.sleep(DOWN_S[number % len(DOWN_S)])
                cluster.start_router()

            histories = ask_together(cluster.url, workload.requests, at_token=(token, kill))
            problems = workload.problems(histories)
            assert not problems, "\n".join([f"the router was killed at token {token}", *problems])
            down_s = DOWN_S[number % len(DOWN_S)]
            pauses.append(max(history.longest_pause(since=killed_at[0])[0] for history in histories) - down_s)
            cluster.wait_serving()
        assert max(pauses) < PAUSE_S_MAX, pauses
        print(f"{model}: {len(pauses)} kills; pause beyond the router's absence: longest {max(pauses):.2f} s, "
              f"median {sorted(pauses)[len(pauses) // 2]:.2f} s")
