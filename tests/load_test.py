"""100 streaming clients at once: no error, no leak, and the metrics count exactly what the clients received.

BRAID_LOAD_SECONDS says for how long (5 on every change; `./run acceptance` asks for 60).
"""
import asyncio
import os
import random
import time
import urllib.request

import openai

from cluster import Cluster

CLIENTS = 100
SECONDS = float(os.environ.get("BRAID_LOAD_SECONDS", "5"))


async def client_loop(client, index, end, received):
    rng = random.Random(index)
    while time.monotonic() < end:
        stream = await client.chat.completions.create(
            model="", messages=[{"role": "user", "content": rng.choice(
                ["Hello! Who are you?", "What is 47 + 38?", "Tell me about the river.", "one two three " * 40])}],
            stream=True, stream_options={"include_usage": True}, temperature=1.0, seed=rng.randrange(10**6),
            max_tokens=rng.choice([4, 16, 48]))
        finished = usage = None
        async for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                finished = choice.finish_reason or finished
        assert finished in ("stop", "length"), finished
        received["requests"] += 1
        received["completion"] += usage.completion_tokens
        received["prompt"] += usage.prompt_tokens


async def storm(url, seconds):
    received = {"requests": 0, "completion": 0, "prompt": 0}
    async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="unused", max_retries=0, timeout=300) as client:
        end = time.monotonic() + seconds
        await asyncio.gather(*(client_loop(client, i, end, received) for i in range(CLIENTS)))
    return received


def resources(cluster):
    """(name, open descriptors, resident bytes) of every process of the cluster."""
    found = []
    for name, process in cluster.processes.items():
        with open(f"/proc/{process.pid}/status") as status:
            resident = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))
        found.append((name, len(os.listdir(f"/proc/{process.pid}/fd")), resident))
    return found


def settled(cluster, descriptors_before):
    """Waits until descriptors are back where they were; returns what is."""
    for _ in range(100):
        now = resources(cluster)
        if all(fds <= before + 4 for (_, fds, _), before in zip(now, descriptors_before)):
            break
        time.sleep(0.1)
    return now


def test_100_streams():
    with Cluster(workers=2) as cluster:
        asyncio.run(storm(cluster.url, 2))  # buffers grow to their size once
        time.sleep(1)
        before = resources(cluster)
        generated = cluster.metric("braid_generated_tokens_total")
        prompt = cluster.metric("braid_prompt_tokens_total")
        start = time.monotonic()
        received = asyncio.run(storm(cluster.url, SECONDS))
        seconds = time.monotonic() - start
        print(f"{received['requests']} requests, {received['completion'] / seconds:.0f} output tokens/s")
        assert cluster.metric("braid_generated_tokens_total") - generated == received["completion"]
        assert cluster.metric("braid_prompt_tokens_total") - prompt == received["prompt"]
        after = settled(cluster, [fds for _, fds, _ in before])
        for (name, fds_before, resident_before), (_, fds_after, resident_after) in zip(before, after):
            assert fds_after <= fds_before + 4, f"{name}: {fds_before} -> {fds_after} descriptors"
            assert resident_after <= resident_before * 1.2 + (32 << 20), (
                f"{name}: {resident_before >> 20} -> {resident_after >> 20} MiB")
        assert cluster.metric("braid_router_sequences_running", cluster.router_metrics_port) == 0
        assert cluster.metric("braid_kv_blocks_used", cluster.router_metrics_port) == 0
        with urllib.request.urlopen(cluster.url + "/health", timeout=5) as answer:
            assert answer.status == 200
