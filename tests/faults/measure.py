"""What running streams notice of one fault: the figures of `./run bench faults`."""
import dataclasses
import functools
import random
import signal
import threading
import time

from cluster import DEMO, Cluster
from faults.client import ask_together
from faults.history import violations
from faults.workload import COMPLETION, undisturbed

WORKERS, STREAMS, TOKENS = 4, 16, 800
AT_TOKEN = 100  # all prompts are read and every stream runs
SETTLE_S = 0.5


@dataclasses.dataclass
class Figure:
    name: str
    value: str
    note: str = ""
    data: dict = dataclasses.field(default_factory=dict)


@functools.lru_cache
def load(tokens=TOKENS):
    """(requests, undisturbed answers) of streams that run together for all of `tokens`. Sampled: a greedy answer of
    that length repeats itself, and some repeat what shows no text, so that nothing comes for a while."""
    words = "river stone market lantern seven garden why does the of Braid".split()
    rng = random.Random(5)
    requests = [(COMPLETION, {"prompt": " ".join(rng.choices(words, k=12)), "max_tokens": tokens, "ignore_eos": True,
                              "temperature": 1, "seed": i}) for i in range(STREAMS)]
    with Cluster(workers=0) as cluster:
        return requests, undisturbed(cluster, requests)


def pause(cluster, action, tokens=TOKENS):
    """(longest pause of any stream from action() on, answers that were changed or lost). action() runs at a token of
    the first stream, on its thread; when it returns, the fault is over."""
    requests, answers = load(tokens)
    times = []

    def act():
        times.append(time.monotonic())
        action()
        times.append(time.monotonic())

    histories = ask_together(cluster.url, requests, at_token=(AT_TOKEN, act))
    # The first stream does not read while action() runs: its own clock says nothing.
    witnesses = histories[1:]
    assert min(history.events[-1][0] for history in witnesses) > times[1], "the streams ended before the fault did"
    wrong = sum(bool(violations(history, answer)) for history, answer in zip(histories, answers))
    return max(history.longest_pause(since=times[0])[0] for history in witnesses), wrong


def figure(name, pauses, note):
    seconds, wrong = sorted(p for p, _ in pauses), sum(w for _, w in pauses)
    return Figure(name, f"{seconds[len(seconds) // 2]:.2f} s, at most {seconds[-1]:.2f} s",
                  f"{note}; {len(pauses)} times, {len(pauses) * STREAMS} answers, {wrong} changed or lost",
                  {"pauses_s": seconds, "answers": len(pauses) * STREAMS, "changed_or_lost": wrong})


def undisturbed_gaps(cluster, rounds):
    return figure("nothing (for comparison)", [pause(cluster, lambda: None) for _ in range(rounds)],
                  "the longest gap of streams that nothing happens to")


def crash(cluster, rounds):
    pauses = []
    for turn in range(rounds):
        worker = turn % WORKERS

        pauses.append(pause(cluster, lambda: cluster.kill(f"worker-{worker}")))
        cluster.start_worker(worker)
        cluster.wait_serving()
    return figure("a worker crashes (kill -9)", pauses, "the others go on alone")


def hang(cluster, rounds):
    pauses = []
    for turn in range(rounds):
        worker = turn % WORKERS

        stopped = cluster.processes[f"worker-{worker}"]
        pauses.append(pause(cluster, lambda: stopped.send_signal(signal.SIGSTOP)))
        cluster.kill(f"worker-{worker}")
        cluster.start_worker(worker)
        cluster.wait_serving()
    return figure("a worker hangs (SIGSTOP)", pauses, "the others go on alone")


def seconds_until_end(process):
    """After a SIGTERM."""
    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.wait()
    return time.monotonic() - start


def join_and_leave(cluster, rounds):
    joins, leaves, seconds, extra = [], [], [], f"worker-{WORKERS}"

    def join():
        cluster.start_worker(WORKERS)
        cluster.wait_serving(WORKERS + 1)
        time.sleep(SETTLE_S)

    for turn in range(rounds):
        joins.append(pause(cluster, join))
        leaving = turn % WORKERS  # one that has sequences
        process = cluster.processes[f"worker-{leaving}"]
        gone = threading.Thread(target=lambda: seconds.append(seconds_until_end(process)))
        leaves.append(pause(cluster, gone.start))
        gone.join()
        cluster.kill(extra)
        cluster.start_worker(leaving)
        cluster.wait_serving()
    return [figure("a worker joins", joins, "from its start until it serves"),
            figure("a worker leaves (SIGTERM)", leaves, f"its process has ended at most {max(seconds):.1f} s later")]


def router_restart(cluster, rounds, down_s):
    pauses = []
    for _ in range(rounds):

        def restart():
            cluster.kill("router")
            time.sleep(down_s)
            cluster.start_router()

        pauses.append(pause(cluster, restart))
        cluster.wait_serving()
    return figure(f"the router is gone for {down_s:g} s (kill -9)", pauses, "its absence included")


def throughput(cluster):
    """Tokens per second of all streams between the first stream's 100th token and its end."""
    requests, _ = load()
    histories = ask_together(cluster.url, requests)
    start = max(history.token_times[AT_TOKEN] for history in histories)
    end = min(history.token_times[-1] for history in histories)
    return sum(start <= at <= end for history in histories for at in history.token_times) / (end - start)


def throughput_with_one_less(rounds, cores):
    """Whole and short of one, in turns, so that a busy machine is as unfair to both."""
    whole, less = [], []
    with Cluster(workers=WORKERS) as cluster, Cluster(workers=WORKERS) as smaller:
        smaller.kill("worker-0")
        smaller.wait_serving()
        for _ in range(rounds):
            whole.append(throughput(cluster))
            less.append(throughput(smaller))
    whole_median, less_median = sorted(whole)[rounds // 2], sorted(less)[rounds // 2]
    share = less_median / whole_median / ((WORKERS - 1) / WORKERS)
    shared = f"; {WORKERS} processes share {cores} cores, so that one less costs little" if cores < WORKERS else ""
    return Figure(f"throughput with {WORKERS - 1} of {WORKERS} workers", f"{share:.0%} of {WORKERS - 1}/{WORKERS}",
                  f"{less_median:.0f} against {whole_median:.0f} tokens/s{shared}",
                  {"whole_tokens_per_s": whole, "less_tokens_per_s": less, "share_of_expected": share})


def single_faults(rounds, progress):
    """The figures of one cluster that lives through it all, one after another."""
    load()
    with Cluster(workers=WORKERS, model=DEMO) as cluster:
        for what, measure in [("nothing", lambda: undisturbed_gaps(cluster, rounds)),
                              ("crash", lambda: crash(cluster, rounds)), ("hang", lambda: hang(cluster, rounds)),
                              ("join and leave", lambda: join_and_leave(cluster, rounds)),
                              ("router", lambda: router_restart(cluster, rounds, 0)),
                              ("router, away", lambda: router_restart(cluster, rounds, 1))]:
            progress(what)
            found = measure()
            yield from found if isinstance(found, list) else [found]
