"""A crash under a model of full size: two workers, one is killed, the other has to read in experts and prompts."""
import time

from cluster import Cluster
from faults.client import Stream, ask
from faults.history import fold
from faults.measure import Figure
from faults.workload import COMPLETION
from full_size_model import full_size_gguf

PROMPT_TOKENS, TOKENS, STREAMS, AT_TOKEN = 240, 48, 2, 12
READY_TIMEOUT_S = 300


def request(stream):
    return COMPLETION, {"prompt": [300 + (stream * 977 + i) % 5000 for i in range(PROMPT_TOKENS)], "max_tokens": TOKENS,
                        "ignore_eos": True, "temperature": 0}


def prefill_seconds(cluster, number):
    """From a request to its first token, with the workers that there are."""
    started = time.monotonic()
    return ask(cluster.url, *request(number), timeout_s=1800).token_times[0] - started


def crash(cluster, expected, worker):
    """(pause of each stream, seconds of a prefill with the workers that are left, streams changed or lost)"""
    killed_at = []

    def kill():
        killed_at.append(time.monotonic())
        cluster.kill(f"worker-{worker}")

    streams = [Stream(cluster.url, *request(i), at_token=(AT_TOKEN, kill) if i == 0 else None, timeout_s=1800)
               for i in range(STREAMS)]
    for stream in streams:
        stream.start()
    for stream in streams:
        stream.join()
    pauses = [stream.history.longest_pause(since=killed_at[0])[0] for stream in streams]
    wrong = sum(fold(stream.history)[0] != answer for stream, answer in zip(streams, expected))
    prefill_s = prefill_seconds(cluster, STREAMS + worker)
    cluster.start_worker(worker)
    cluster.wait_serving(timeout_s=READY_TIMEOUT_S)
    return pauses, prefill_s, wrong


def full_size(rounds, progress):
    progress(f"full size: {full_size_gguf()}")
    with Cluster(workers=2, model=full_size_gguf(), ready_timeout_s=READY_TIMEOUT_S) as cluster:
        expected = [fold(ask(cluster.url, *request(i), timeout_s=1800))[0] for i in range(STREAMS)]
        pauses, beyond, wrong = [], [], 0
        for turn in range(rounds):
            progress(f"full size: crash {turn + 1} of {rounds}")
            found, prefill_s, changed = crash(cluster, expected, turn % 2)
            pauses.append(found)
            beyond.append(max(found) - prefill_s)
            wrong += changed
    each = ", ".join("/".join(f"{seconds:.2f}" for seconds in sorted(found)) for found in pauses)
    return Figure("full size: a worker of 2 crashes", f"at most {max(beyond):.2f} s beyond the prefill",
                  f"the other goes on alone; {STREAMS} streams with prompts of {PROMPT_TOKENS} tokens, which are read "
                  f"again; pauses of both, each time: {each} s; {wrong} changed or lost",
                  {"pauses_s": pauses, "beyond_prefill_s": beyond, "changed_or_lost": wrong})
