"""P2 on real processes: a worker is killed with kill -9 at every token of an answer, and nobody sees more than a pause.

One cluster lives through all of it. In each round all requests of the workload start at once, spread over the workers,
so that one kill hits the owner of some and a neighbour of the others. BRAID_FAULTS=all (`./run acceptance`) kills each
of two and of three workers at every token; on every change they take turns.
"""
import os
import pathlib
import signal
import time

import pytest

from cluster import Cluster
from faults.client import ask_together
from faults.workload import TOKENS, WORKLOADS, demo_workload

ALL = os.environ.get("BRAID_FAULTS") == "all"


def rounds(workers):
    """(token, worker to kill)"""
    for token in range(1, TOKENS + 1):
        yield from ((token, worker) for worker in (range(workers) if ALL else [token % workers]))


class Tally:
    """What the kills of one test have done."""

    def __init__(self):
        self.kills, self.answers, self.under_way, self.pauses = 0, 0, 0, []

    def add(self, killed_at, histories):
        self.kills += 1
        self.answers += len(histories)
        self.under_way += sum(history.events[0][0] < killed_at < history.events[-1][0] for history in histories)
        self.pauses.append(max(history.longest_pause(since=killed_at)[0] for history in histories))

    def __str__(self):
        pauses = sorted(self.pauses)
        return (f"{self.kills} kills, {self.answers} answers unchanged, {self.under_way} of them under way at the "
                f"kill; longest pause {pauses[-1]:.2f} s, median {pauses[len(pauses) // 2]:.2f} s")


def kill_round(cluster, workload, token, worker, tally, replaced_at_once):
    """All of the workload, with a kill when its first request has so many tokens."""
    killed_at = []

    def kill():
        killed_at.append(time.monotonic())
        cluster.kill(f"worker-{worker}")
        if replaced_at_once:
            cluster.start_worker(worker)

    histories = ask_together(cluster.url, workload.requests, at_token=(token, kill))
    problems = workload.problems(histories)
    assert not problems, "\n".join([f"worker {worker} was killed at token {token}", *problems])
    tally.add(killed_at[0], histories)
    if not replaced_at_once:
        cluster.start_worker(worker)
    cluster.wait_serving()


@pytest.mark.parametrize("workers", [2, 3] if ALL else [2])
@pytest.mark.parametrize("model", WORKLOADS)
@pytest.mark.parametrize("replaced", ["at once", "when the answers are out"])
def test_a_worker_is_killed_at_every_token(model, workers, replaced):
    workload, tally = WORKLOADS[model](), Tally()
    with Cluster(workers=workers, model=workload.model) as cluster:
        for token, worker in rounds(workers):
            kill_round(cluster, workload, token, worker, tally, replaced == "at once")
        assert cluster.router_metric("braid_router_epochs_lost_total") >= tally.kills
        assert tally.under_way > tally.answers / 4, tally
        print(f"{model}, {workers} workers, replaced {replaced}: {tally}")


def children(pid):
    """The processes that `pid` has started."""
    return [int(child) for task in pathlib.Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()]


def test_serve_starts_a_dead_worker_again():
    """`braid serve --workers 2`: gateway and router in the process that looks after two workers."""
    workload = demo_workload()
    with Cluster(workers=0, flags={"serve": ["--workers", 2]}) as cluster:
        for turn in range(2):

            def kill():
                os.kill(children(cluster.processes["serve"].pid)[turn], signal.SIGKILL)

            problems = workload.problems(ask_together(cluster.url, workload.requests, at_token=(TOKENS // 2, kill)))
            assert not problems, "\n".join(problems)
            cluster.wait_until(lambda: cluster.metric("braid_router_workers_attached") == 2)
