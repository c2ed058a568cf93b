"""Braid, measured: its engine by `braid bench engine`, its server by starting it."""
import json
import subprocess
import time

from cluster import BIN, Cluster
from speed.process import START_PROMPT, resident_bytes, token_ids

KV_BLOCK_TOKENS = 32
MEMORY_PROMPT_TOKENS, MEMORY_OUTPUT_TOKENS = 512, 16


def engine_figures(model, threads, prompts, batches, contexts, steps):
    """What `braid bench engine --json` says: one sample of each point."""
    command = [BIN / "braid", "bench", "engine", "--model", model, "--threads", threads, "--repeat", 1,
               "--prompt", ",".join(map(str, prompts or [0])), "--batch", ",".join(map(str, batches)),
               "--context", ",".join(map(str, contexts)), "--steps", steps, "--seed", time.monotonic_ns() % 2**32,
               "--kv-bytes", "600M",  # long contexts are for one sequence
               "--json", "-"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"braid bench engine: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def server_figures(model, threads, engine):
    """(seconds from the process's start to its first token, bytes beyond weights and the KV blocks in use)"""
    start = time.monotonic()
    with Cluster(workers=0, model=model, flags={"serve": ["--threads", threads]}, ready_timeout_s=300) as cluster:
        def complete(prompt, tokens):
            status, answer = cluster.post("/v1/completions", {"prompt": prompt, "max_tokens": tokens,
                                                              "ignore_eos": True, "temperature": 0}, timeout_s=600)
            assert status == 200, answer

        complete(START_PROMPT, 1)
        first_token_s = time.monotonic() - start
        complete(token_ids(MEMORY_PROMPT_TOKENS), MEMORY_OUTPUT_TOKENS)
        blocks = sum(-(-tokens // KV_BLOCK_TOKENS)
                     for tokens in (len(START_PROMPT) + 1, MEMORY_PROMPT_TOKENS + MEMORY_OUTPUT_TOKENS))
        kv_bytes = blocks * KV_BLOCK_TOKENS * engine["kv_bytes_per_token"]
        resident = resident_bytes(cluster.processes["serve"].pid)
        return first_token_s, resident - engine["weight_bytes"] - kv_bytes
