"""Workers come and go while answers are under way: nobody notices."""
import signal
import threading

import pytest

from cluster import Cluster
from faults.client import ask_together
from faults.workload import TOKENS, WORKLOADS

ROUNDS = 4


@pytest.fixture(params=WORKLOADS)
def workload(request):
    return WORKLOADS[request.param]()


def attached(cluster):
    return cluster.router_metric("braid_router_workers_attached")


def leave(cluster, name):
    """SIGTERM, then its clean end, which must come well before its drain time is over."""
    process = cluster.processes[name]
    process.send_signal(signal.SIGTERM)
    assert process.wait(15) == 0, cluster.log(name)[-2000:]


def ask_while(cluster, workload, token, action):
    """All of the workload; action() runs beside it from that token on. Returns the longest pause."""
    beside = threading.Thread(target=action)
    histories = ask_together(cluster.url, workload.requests, at_token=(token, beside.start))
    beside.join()
    problems = workload.problems(histories)
    assert not problems, "\n".join(problems)
    return max(history.longest_pause()[0] for history in histories)


def test_workers_join_and_leave_under_load(workload):
    """One more comes, then the oldest goes, again and again: none of the first ones is left at the end."""
    with Cluster(workers=2, model=workload.model) as cluster:
        for turn in range(ROUNDS):
            joining, leaving = turn + 2, turn
            join_pause = ask_while(cluster, workload, TOKENS // 4, lambda: cluster.start_worker(joining))
            cluster.wait_until(lambda: attached(cluster) == 3)
            cluster.wait_serving(3)
            leave_pause = ask_while(cluster, workload, TOKENS // 2, lambda: leave(cluster, f"worker-{leaving}"))
            cluster.wait_serving(2)
            print(f"turn {turn}: pause {join_pause:.2f} s while one joins, {leave_pause:.2f} s while one leaves")


def test_a_joined_worker_leaves_again(workload):
    with Cluster(workers=2, model=workload.model) as cluster:
        cluster.start_worker(2)
        cluster.wait_until(lambda: attached(cluster) == 3)
        cluster.wait_serving(3)
        ask_while(cluster, workload, TOKENS // 2, lambda: leave(cluster, "worker-2"))
        cluster.wait_serving(2)


def test_a_worker_dies_while_it_joins(workload):
    """At whatever point of its start the kill finds it, the others go on."""
    with Cluster(workers=2, model=workload.model) as cluster:
        for delay_s in (0.02, 0.05, 0.1, 0.2):

            def come_and_die():
                cluster.start_worker(2)
                threading.Event().wait(delay_s)
                cluster.kill("worker-2")

            ask_while(cluster, workload, TOKENS // 8, come_and_die)
            cluster.wait_serving(2)


def test_experts_move_while_answers_are_under_way():
    """Placed anew by their load every second; the tokens do not change. (The checksum model uses all alike.)"""
    workload = WORKLOADS["demo"]()
    # Without a prefix cache: prompts that are computed are load.
    flags = {"router": ["--rebalance-interval-ms", 1000, "--replica-experts", 4, "--rebalance-experts", 8,
                        "--prefix-cache", "false"]}
    with Cluster(workers=3, model=workload.model, flags=flags) as cluster:
        pauses = []
        for _ in range(40):
            histories = ask_together(cluster.url, workload.requests)
            problems = workload.problems(histories)
            assert not problems, "\n".join(problems)
            pauses.append(max(history.longest_pause()[0] for history in histories))
            if cluster.router_metric("braid_rebalances_total") >= 1:
                break
        moved = cluster.router_metric("braid_experts_moved_total")
        print(f"{moved:.0f} experts moved or replicated; longest pause {max(pauses):.2f} s")
        assert cluster.router_metric("braid_rebalances_total") >= 1 and moved >= 1
        assert cluster.router_metric("braid_router_epochs_lost_total") == 0


def test_a_group_dies_and_the_other_takes_over(workload):
    """Two groups of two. Each takes part; when all workers of one are killed, its requests go on in the other. Without
    the prefix cache, which would like those that begin alike in one group."""
    flags = {"router": ["--prefix-cache", "false"]}
    with Cluster(workers=4, groups=2, model=workload.model, flags=flags) as cluster:
        cluster.wait_until(lambda: cluster.router_metric("braid_router_groups_ready") == 2)
        epochs = [cluster.worker_metric("braid_worker_epoch", index) for index in range(4)]
        groups = [[i for i in range(4) if epochs[i] == epoch] for epoch in sorted(set(epochs))]
        assert [len(group) for group in groups] == [2, 2]

        def of_group(metric, group):
            return sum(cluster.worker_metric(metric, i) for i in group)

        def kill():
            rows.extend(of_group("braid_worker_rows_total", group) for group in groups)
            running.append(max(of_group("braid_worker_sequences", group) for group in groups))
            for i in max(groups, key=lambda group: of_group("braid_worker_sequences", group)):
                cluster.kill(f"worker-{i}")

        rows, running = [], []
        histories = ask_together(cluster.url, workload.requests, at_token=(TOKENS // 2, kill))
        problems = workload.problems(histories)
        assert not problems, "\n".join(problems)
        assert min(rows) > 0 and running[0] > 0, (rows, running)
        assert cluster.router_metric("braid_router_groups_ready") == 1
        print(f"a group died: pause {max(history.longest_pause()[0] for history in histories):.2f} s")
