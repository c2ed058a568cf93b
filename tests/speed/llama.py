"""llama.cpp, measured through its server: the speeds are those that it reports itself."""
import concurrent.futures
import json
import statistics
import time
import urllib.request

from faults.llama import LlamaServer
from speed.process import START_PROMPT, resident_bytes, token_ids

KV_BYTES_PER_VALUE = 2  # its default, f16
SLOT_TOKENS = 256  # of each of many sequences
DECODE_PROMPT_TOKENS = 8
READY_TIMEOUT_S = 300


def complete(server, prompt, tokens):
    """The server's own timings."""
    body = {"prompt": prompt, "n_predict": tokens, "ignore_eos": True, "temperature": 0, "cache_prompt": False}
    request = urllib.request.Request(server.url + "/completion", data=json.dumps(body).encode(),
                                     headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=3600) as answer:
        timings = json.loads(answer.read())["timings"]
    assert timings["prompt_n"] == len(prompt) and timings["predicted_n"] == tokens, timings
    return timings


def decode_tokens_per_second(server, sequences, tokens):
    """Of all together, each with a prompt of its own. The first token of each belongs to its prompt."""
    with concurrent.futures.ThreadPoolExecutor(sequences) as clients:
        prompts = [token_ids(DECODE_PROMPT_TOKENS) for _ in range(sequences)]
        timings = list(clients.map(lambda prompt: complete(server, prompt, tokens + 1), prompts))
    # The first to come may decode a step alone before the others' prompts are read: the median has not.
    return sequences * tokens / statistics.median(t["predicted_ms"] / 1e3 for t in timings)


def one_sequence(gguf, log, threads, prompts, engine, steps):
    """A server with one slot, from its start: {figure: value}."""
    client_tokens = -(-(max(prompts, default=0) + steps + 64) // 256) * 256
    server = LlamaServer(gguf, log, 1, client_tokens, threads, READY_TIMEOUT_S)
    start = time.monotonic()
    with server:
        complete(server, START_PROMPT, 1)
        figures = {"first_token_s": time.monotonic() - start}
        for tokens in prompts:
            figures[f"prompt_{tokens}"] = complete(server, token_ids(tokens), 1)["prompt_per_second"]
        figures["decode_1"] = decode_tokens_per_second(server, 1, steps)
        kv_bytes = client_tokens * engine["kv_values_per_token"] * KV_BYTES_PER_VALUE
        figures["memory_bytes"] = resident_bytes(server.process.pid) - engine["weight_bytes"] - kv_bytes
    return figures


def many_sequences(gguf, log, threads, batches, steps):
    """A server with a slot for each of the largest batch."""
    if not batches:
        return {}
    with LlamaServer(gguf, log, max(batches), SLOT_TOKENS, threads, READY_TIMEOUT_S) as server:
        return {f"decode_{batch}": decode_tokens_per_second(server, batch, steps) for batch in batches}
