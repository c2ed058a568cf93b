"""A file of the real model's size and shape (4.7 GB, random weights) served within 7 GB, by one process and by two.

Long: `./run acceptance`. full_size_model.py says where the file lies.
"""
import time

import pytest

from cluster import Cluster
from full_size_model import full_size_gguf

LIMIT_BYTES = 7_000_000_000
PROMPT_TOKENS, OUTPUT_TOKENS = 4000, 64


@pytest.fixture(scope="module")
def model():
    return full_size_gguf()


def memory(process, field):
    with open(f"/proc/{process.pid}/smaps_rollup") as rollup:
        return next(int(line.split()[1]) * 1024 for line in rollup if line.startswith(field + ":"))


@pytest.mark.parametrize("workers", [0, 2])
def test_serves_4000_prompt_and_64_output_tokens(model, workers):
    with Cluster(workers=workers, model=model, ready_timeout_s=300) as cluster:
        prompt = [300 + i % 5000 for i in range(PROMPT_TOKENS)]
        start = time.monotonic()
        arrivals, usage = [], None
        for event in cluster.stream("/v1/completions", timeout_s=1800, body={
                "prompt": prompt, "max_tokens": OUTPUT_TOKENS, "ignore_eos": True, "temperature": 0,
                "return_token_ids": True, "stream_options": {"include_usage": True}}):
            usage = event.get("usage") or usage
            if any(choice["token_ids"] for choice in event["choices"]):
                arrivals.append(time.monotonic())
        assert usage["prompt_tokens"] == PROMPT_TOKENS and usage["completion_tokens"] == OUTPUT_TOKENS
        print(f"workers {workers}: prompt {PROMPT_TOKENS / (arrivals[0] - start):.1f} tokens/s, "
              f"decode {(OUTPUT_TOKENS - 1) / (arrivals[-1] - arrivals[0]):.2f} tokens/s")
        # Proportional set size: pages that two workers map from one file count once between them.
        used = sum(memory(process, "Pss") for process in cluster.processes.values())
        print(f"workers {workers}: {used / 1e9:.2f} GB in all")
        assert used <= LIMIT_BYTES


def test_chat_says_why_it_cannot(model):
    with Cluster(workers=0, model=model, ready_timeout_s=300) as cluster:
        status, answer = cluster.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]})
        assert status == 400 and "chat template" in answer["error"]["message"], answer
