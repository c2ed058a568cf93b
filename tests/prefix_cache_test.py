"""The prefix cache with real processes: a hit changes the time and nothing else, and nobody is served from another's.

Floats are compared as the JSON text they were printed as: bit for bit.
"""
import concurrent.futures

import pytest

from cluster import Cluster

TEXT = ("The lantern market by the river opens at seven. Orla counts stones, twelve by twelve, and asks the garden "
        "why. A page of braid is three strands, and each strand is a question. ")
PENALTIES = {"repetition_penalty": 1.3, "presence_penalty": 0.4, "frequency_penalty": 0.3, "temperature": 1.0}
OFF = ["--prefix-cache", "false"]


def prompt(name, repeats=6):
    """Prompts that begin alike and end apart."""
    return TEXT * repeats + f"And then {name} said:"


def request(text, **fields):
    return {"prompt": text, "max_tokens": 24, "temperature": 0, "seed": 5, "logprobs": 3, "return_token_ids": True,
            **fields}


def ask(cluster, body, path="/v1/completions"):
    """(all of the answer that is the model's, tokens of the prompt that were not computed)"""
    status, answer = cluster.post(path, body)
    assert status == 200, answer
    choices = [(choice.get("token_ids"), choice.get("text"), repr(choice["logprobs"]), choice["finish_reason"],
                repr(choice.get("message"))) for choice in answer["choices"]]
    return choices, answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def bodies():
    for i, name in enumerate(["Orla", "Seven", "Why", "Orla"]):
        yield request(prompt(name))
        yield request(prompt(name), **PENALTIES, seed=i)
        yield request(prompt(name, 2), n=2, temperature=1.0)
        yield request(prompt(name), echo=True)
    yield request(prompt("Orla", 20), max_tokens=200, ignore_eos=True)
    yield request(prompt("Orla", 20), max_tokens=200, ignore_eos=True, **PENALTIES)


@pytest.fixture(scope="module")
def cold():
    """The answers of a cluster that remembers nothing."""
    with Cluster(workers=1, flags={"router": OFF}) as cluster:
        answers = [ask(cluster, body) for body in bodies()]
        assert cluster.router_metric("braid_router_prefix_saves_total") == 0
    assert all(cached == 0 for _, cached in answers)
    return [choices for choices, _ in answers]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_hit_changes_no_bit(cold, workers):
    with Cluster(workers=workers) as cluster:
        first = [ask(cluster, body) for body in bodies()]
        again = [ask(cluster, body) for body in bodies()]
        assert [choices for choices, _ in first] == cold
        assert [choices for choices, _ in again] == cold
        scored = [bool(body.get("echo")) for body in bodies()]
        assert all(cached == 0 for (_, cached), s in zip(again, scored) if s), "scores need all of the prompt computed"
        assert all(cached >= 64 and cached % 32 == 0 for (_, cached), s in zip(again, scored) if not s)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda body: ask(cluster, body)[0], bodies()))
        assert together == cold


def test_a_hit_changes_no_bit_whatever_the_chunks(cold):
    for chunk in [1, 33, 100]:
        with Cluster(workers=1, flags={"router": ["--chunk-tokens", chunk]}) as cluster:
            for _ in range(2):
                assert [ask(cluster, body)[0] for body in bodies()] == cold


def test_what_does_not_fit_is_dropped_and_computed_again(cold):
    pool_bytes = 64 << 20
    with Cluster(workers=1, flags={"worker": ["--snapshots-max", 3, "--kv-bytes", pool_bytes]}) as cluster:
        for _ in range(2):
            assert [ask(cluster, body)[0] for body in bodies()] == cold
        assert cluster.worker_metric("braid_worker_snapshots", 0) <= 3
        assert cluster.router_metric("braid_router_prefix_drops_total") > 0
        block_bytes = pool_bytes // int(cluster.worker_metric("braid_worker_kv_blocks", 0))
    # A pool that one of the long ones fills.
    with Cluster(workers=1, flags={"worker": ["--kv-bytes", 64 * block_bytes]}) as cluster:
        assert cluster.worker_metric("braid_worker_kv_blocks", 0) == 64
        for _ in range(2):
            assert [ask(cluster, body)[0] for body in bodies()] == cold
        assert cluster.router_metric("braid_router_prefix_drops_total") > 0
        assert cluster.router_metric("braid_kv_blocks_used") == 0
        cached = cluster.router_metric("braid_router_prefix_blocks")
        assert 0 < cached <= 64
        # What the router has let go since, the worker hears of with the next step.
        assert cluster.worker_metric("braid_worker_kv_blocks_used", 0) >= cached


def test_tenants_are_apart_unless_allowed():
    def cached(cluster, **fields):
        return ask(cluster, request(prompt("Orla"), max_tokens=1, **fields))[1]

    with Cluster(workers=1) as cluster:
        assert cached(cluster, user="a") == 0
        assert cached(cluster, user="b") == 0
        assert cached(cluster) == 0
        assert cached(cluster, user="a") > 0
        assert cached(cluster, safety_identifier="a") > 0, "its newer name"
        assert cached(cluster, user="a", cache_salt="x") == 0
        assert cached(cluster, user="a", cache_salt="x") > 0
        assert cached(cluster) > 0
    with Cluster(workers=1, flags={"gateway": ["--share-prefixes", "all"]}) as cluster:
        assert cached(cluster, user="a") == 0
        assert cached(cluster, user="b") > 0
        assert cached(cluster, user="b", cache_salt="x") == 0
    with Cluster(workers=1, flags={"gateway": ["--share-prefixes", "none"]}) as cluster:
        assert cached(cluster, user="a") == 0
        assert cached(cluster, user="a") == 0
        assert cluster.router_metric("braid_router_prefix_saves_total") == 0


def test_a_conversation_goes_on_from_its_last_turn():
    """Also where the template drops the thinking of turns that are over: what comes before is found again."""
    with Cluster(workers=1) as cluster:
        messages = [{"role": "system", "content": TEXT * 3}]
        length = 0
        for turn in ["Hello! Who are you?", "What is 7 + 5?", "And 12 + 30?"]:
            messages.append({"role": "user", "content": turn})
            body = {"messages": messages, "max_tokens": 300, "temperature": 0, "seed": 1}
            status, answer = cluster.post("/v1/chat/completions", body)
            assert status == 200, answer
            usage = answer["usage"]
            found = usage["prompt_tokens_details"]["cached_tokens"]
            assert found >= (length - 1) // 32 * 32, f"the prompt before had {length} tokens"
            length = usage["prompt_tokens"]
            message = answer["choices"][0]["message"]
            messages.append({"role": "assistant", "content": message["content"],
                             "reasoning_content": message.get("reasoning_content") or "I have thought about it."})


def test_the_cache_survives_the_loss_of_another_worker(cold):
    with Cluster(workers=2) as cluster:
        for _ in range(2):
            assert [ask(cluster, body)[0] for body in bodies()] == cold
        hits = cluster.router_metric("braid_router_prefix_hits_total")
        cluster.kill("worker-1")
        cluster.wait_until(lambda: cluster.serving_workers() == [0])
        assert [ask(cluster, body)[0] for body in bodies()] == cold
        assert cluster.router_metric("braid_router_prefix_hits_total") > hits
        cluster.start_worker(1)
        cluster.wait_serving(2)
        assert [ask(cluster, body)[0] for body in bodies()] == cold
