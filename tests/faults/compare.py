"""The same kills for Braid and for llama.cpp's server: whose clients lose what they were already being told.

A request counts from its first token on; it is lost when its stream then breaks or ends without saying how. Both serve
the demo model in float32, from the same GGUF, to the same clients with the same requests; a supervisor starts again
what was killed, a second later. llama.cpp is one process. Of ours the gateway is not killed here: who loses the
connection itself loses the stream with any server.
"""
import dataclasses
import functools
import random
import subprocess

from cluster import BIN, DEMO, Cluster
from faults.client import ask
from faults.history import fold
from faults.llama import LlamaServer
from faults.measure import Figure
from faults.soak import Killer, run_clients, workers_of

CLIENTS, REQUESTS, TOKENS, WORKERS = 8, 16, 400, 4


def requests():
    return [("/v1/completions", {"prompt": f"What is {i} + {i * i}?", "max_tokens": TOKENS, "ignore_eos": True,
                                 "temperature": 0}) for i in range(REQUESTS)]


def other_text(history, expected):
    """All that both servers say in the same way."""
    choice = fold(history)[0].choices.get(0)
    return [] if choice and (choice.text, choice.finish_reason) == (
        expected.choices[0].text, expected.choices[0].finish_reason) else ["the text is another one"]


def storm(name, url, victims, seconds, progress):
    """The figure of clients that ask for so long while something is killed every five seconds."""
    pool = [(request, fold(ask(url, *request))[0]) for request in requests()]
    killer = Killer(victims, random.Random(1))
    killer.start()
    score, _ = run_clients(url, pool, 10**9, seconds, 1, progress, CLIENTS, other_text)
    killer.stop()
    share = f"{score.lost / max(1, score.accepted):.1%}"
    return Figure(name, f"{score.lost} of {score.accepted} requests lost ({share})",
                  f"{killer.kills} kills in {seconds:.0f} s, {CLIENTS} clients; {score.changed} ended with another "
                  f"text; longest pause in a stream {score.longest_pause_s:.2f} s",
                  {**dataclasses.asdict(score), "kills": killer.kills, "seconds": seconds})


def compare(seconds, directory, progress):
    gguf = directory / "demo-f32.gguf"
    subprocess.run([BIN / "braid", "convert", DEMO, gguf, "--type", "f32"], check=True, stdout=subprocess.DEVNULL)
    figures = []
    with Cluster(workers=WORKERS, model=gguf) as cluster:
        progress("kill a worker of ours")
        figures.append(storm(f"Braid, a worker of {WORKERS} is killed", cluster.url, workers_of(cluster), seconds,
                             progress))
        cluster.wait_serving()
        progress("kill our router")
        router = (functools.partial(cluster.kill, "router"), cluster.start_router)
        figures.append(storm("Braid, the router is killed", cluster.url, [router], seconds, progress))
    progress("kill llama.cpp's server")
    with open(directory / "llama.log", "w") as log, LlamaServer(str(gguf), log, CLIENTS) as server:
        figures.append(storm("llama.cpp, its server is killed", server.url, [(server.kill, server.start)], seconds,
                             progress))
    return figures
