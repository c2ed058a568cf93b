"""A process that is stopped for a while (SIGSTOP, SIGCONT) is the hardest kind of dead: it comes back.

Gateway, router and each worker, for 0.5 and 1.5 s on every change; BRAID_FAULTS=all (`./run acceptance`) takes 3 and
60 s. Whatever the others decided meanwhile, answers are the undisturbed ones. Half a second is shorter than the time
after which anybody is given up, so that it must not even end an epoch.
"""
import os
import signal
import threading
import time

import pytest

from cluster import Cluster
from faults.client import ask_together
from faults.workload import WORKLOADS

SECONDS = [3, 60] if os.environ.get("BRAID_FAULTS") == "all" else [0.5, 1.5]
HARMLESS_S = 0.5
PAUSE_S_MAX = 10  # however long a worker is gone; on a busy machine, the benchmark measures


@pytest.fixture(scope="module", params=WORKLOADS)
def workload(request):
    return WORKLOADS[request.param]()


@pytest.fixture(scope="module")
def cluster(workload):
    with Cluster(workers=2, model=workload.model) as running:
        yield running


@pytest.mark.parametrize("seconds", SECONDS)
@pytest.mark.parametrize("name", ["gateway", "router", "worker-0", "worker-1"])
def test_stopped_and_continued(cluster, workload, name, seconds):
    process = cluster.processes[name]
    cluster.wait_serving()
    lost_before = cluster.router_metric("braid_router_epochs_lost_total")
    resume = threading.Timer(seconds, process.send_signal, [signal.SIGCONT])
    stopped_at = []

    def stop():
        stopped_at.append(time.monotonic())
        process.send_signal(signal.SIGSTOP)
        resume.start()

    histories = ask_together(cluster.url, workload.requests, at_token=(20, stop))
    resume.join()
    problems = workload.problems(histories)
    assert not problems, "\n".join(problems)
    cluster.wait_serving()
    pause = max(history.longest_pause(since=stopped_at[0])[0] for history in histories)
    lost = cluster.router_metric("braid_router_epochs_lost_total") - lost_before
    print(f"{name} stopped for {seconds} s: pause {pause:.2f} s, {lost:.0f} epochs lost")
    if seconds <= HARMLESS_S:
        assert lost == 0
    if name.startswith("worker"):
        assert pause < PAUSE_S_MAX
