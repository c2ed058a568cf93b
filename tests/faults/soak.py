"""Hours of random kills: every accepted request ends, unchanged, and nothing is left behind.

Clients draw requests from a pool whose answers an undisturbed cluster has given beforehand, while a random worker is
killed with kill -9 every few seconds and started again a second later, as `braid serve` or Kubernetes would.
"""
import concurrent.futures
import dataclasses
import functools
import os
import random
import threading
import time

from cluster import Cluster
from faults.client import ask
from faults.history import fold, is_dishonest, is_lost, violations
from faults.measure import Figure
from faults.workload import CHAT, COMPLETION, TOKENS, demo_requests, user, with_stop_string

WORKERS, CLIENTS, KILL_EVERY_S, RESTART_AFTER_S = 4, 24, 5.0, 1.0
SETTLE_TIMEOUT_S = 60
GROWTH_BYTES_MAX = 16 << 20  # of a process, over the whole soak: caches and arenas, not a leak per request


def pool_requests(count, rng):
    """The kinds of demo_requests, with many seeds, lengths and prompts."""
    requests = demo_requests(TOKENS)
    while len(requests) < count:
        seed, tokens = len(requests), rng.choice([8, 24, 64, 120])
        a, b = rng.randrange(1000), rng.randrange(1000)
        sampling = {"temperature": rng.choice([0, 0.7, 1.0, 1.5]), "seed": seed, "n": rng.choice([1, 1, 1, 2]),
                    "repetition_penalty": rng.choice([1.0, 1.3]), "max_tokens": tokens}
        requests.append(rng.choice([
            (CHAT, {"messages": user(f"What is {a} + {b}?"), **sampling}),
            (CHAT, {"messages": user(f"What is {a} - {b}?"), "logprobs": True, "top_logprobs": 2, **sampling}),
            (COMPLETION, {"prompt": f"{a} {b} " * rng.choice([1, 20]), "ignore_eos": True, "logprobs": 2, **sampling}),
            (CHAT, {**demo_requests()[2][1], **sampling}),
        ]))
    return requests[:count]


def answers_of(cluster, requests):
    """The undisturbed ones, four requests at a time."""

    def answer(request):
        history = ask(cluster.url, *request)
        answer, wrong = fold(history)
        assert history.done and not wrong, (request, wrong)
        return answer

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        return list(pool.map(answer, requests))


def make_pool(count, rng):
    """[(request, undisturbed answer)], a tenth of them with a stop string."""
    requests = pool_requests(count, rng)
    with Cluster(workers=0) as cluster:
        answers = answers_of(cluster, requests)
        stopped = [with_stop_string(request, answer) for request, answer in list(zip(requests, answers))[:count // 10]
                   if len(answer.choices[0].text) > 20]
        return list(zip(requests + stopped, answers + answers_of(cluster, stopped)))


class Killer(threading.Thread):
    """Kills one of `victims`, pairs of functions (kill, start), every few seconds until told to stop, and starts it
    again a second later."""

    def __init__(self, victims, rng):
        super().__init__(daemon=True)
        self.victims, self.rng, self.stopped, self.kills = victims, rng, threading.Event(), 0

    def run(self):
        while not self.stopped.wait(KILL_EVERY_S - RESTART_AFTER_S):
            kill, start = self.rng.choice(self.victims)
            kill()
            self.kills += 1
            time.sleep(RESTART_AFTER_S)
            start()

    def stop(self):
        self.stopped.set()
        self.join()


def workers_of(cluster):
    """As victims."""
    return [(functools.partial(cluster.kill, f"worker-{index}"), functools.partial(cluster.start_worker, index))
            for index in range(cluster.workers)]


@dataclasses.dataclass
class Score:
    accepted: int = 0
    refused: int = 0  # and asked again until accepted
    lost: int = 0
    changed: int = 0  # of those that ended
    dishonest: int = 0  # of the lost ones: said that they had ended
    tokens: int = 0
    longest_pause_s: float = 0
    examples: list = dataclasses.field(default_factory=list)

    def add(self, history, expected, judge):
        wrong = judge(history, expected)
        self.accepted += history.accepted
        self.refused += history.retries
        self.lost += is_lost(history)
        self.changed += bool(wrong) and not is_lost(history)
        self.dishonest += is_lost(history) and is_dishonest(history, expected)
        self.tokens += sum(len(choice.tokens) for choice in fold(history)[0].choices.values())
        self.longest_pause_s = max(self.longest_pause_s, history.longest_pause()[0])
        if wrong and len(self.examples) < 5:
            self.examples.append({"request": history.body, "violations": wrong})


def resources(cluster):
    """What must be back afterwards, of the processes that live through it all."""
    found = {"kv blocks": int(cluster.router_metric("braid_kv_blocks_used")),
             "sequences": int(cluster.router_metric("braid_router_sequences_running"))}
    for name in ("gateway", "router"):
        pid = cluster.processes[name].pid
        found[f"{name} descriptors"] = len(os.listdir(f"/proc/{pid}/fd"))
        with open(f"/proc/{pid}/status") as status:
            found[f"{name} bytes"] = next(int(line.split()[1]) << 10 for line in status if line.startswith("RssAnon"))
    held = sum(cluster.worker_metric("braid_worker_kv_blocks_used", index) for index in cluster.serving_workers())
    kept = cluster.router_metric("braid_router_prefix_blocks")
    found["workers' kv blocks beyond the prefix cache"] = int(held - kept)
    return found


def left_behind(before, after):
    """Names of what is more than it was."""
    return [name for name in before
            if after[name] > before[name] + (GROWTH_BYTES_MAX if name.endswith("bytes") else 0)]


def run_clients(url, pool, requests, seconds, seed, progress, clients=CLIENTS, judge=violations):
    """The score of that many requests, or of as many as the time allows, and the seconds that it took."""
    score, lock, started = Score(), threading.Lock(), time.monotonic()
    begun = iter(range(requests))

    def client(index):
        rng = random.Random(seed * 1000 + index)
        while time.monotonic() < started + seconds:
            with lock:
                number = next(begun, None)
            if number is None:
                return
            (path, body), expected = rng.choice(pool)
            history = ask(url, path, body)
            with lock:
                score.add(history, expected, judge)
            if number and number % 1000 == 0:
                progress(f"soak: {number} requests in {time.monotonic() - started:.0f} s, {score.lost} lost, "
                         f"{score.changed} changed")

    with concurrent.futures.ThreadPoolExecutor(clients) as threads:
        list(threads.map(client, range(clients)))
    return score, time.monotonic() - started


def soak(requests, minutes, seed, progress):
    rng = random.Random(seed)
    pool = make_pool(200, rng)
    progress(f"soak: the answers of {len(pool)} distinct requests are known")
    with Cluster(workers=WORKERS) as cluster:
        run_clients(cluster.url, pool, 200, 3600, seed + 1, progress)  # warm: what is allocated once is there
        time.sleep(1)
        before, killer = resources(cluster), Killer(workers_of(cluster), rng)
        killer.start()
        score, seconds = run_clients(cluster.url, pool, requests, 60 * minutes, seed, progress)
        killer.stop()
        cluster.wait_serving()
        end = time.monotonic() + SETTLE_TIMEOUT_S
        while left_behind(before, after := resources(cluster)) and time.monotonic() < end:
            time.sleep(0.5)
    more = left_behind(before, after)
    return Figure(f"soak: {score.accepted} requests, {killer.kills} kills",
                  f"{score.lost} lost, {score.changed} changed",
                  f"{seconds / 60:.1f} min, {score.tokens} tokens, {CLIENTS} clients; longest pause "
                  f"{score.longest_pause_s:.2f} s; {score.refused} refusals; left behind: "
                  f"{', '.join(more) or 'nothing'}",
                  {**dataclasses.asdict(score), "kills": killer.kills, "seconds": seconds, "seed": seed,
                   "resources_before": before, "resources_after": after, "left_behind": more})
