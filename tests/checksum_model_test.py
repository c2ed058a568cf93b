"""Clusters of real processes give the answers of the checksum model, which tests/checksum_model.py knows exactly."""
import concurrent.futures
import random
import subprocess

import pytest

import checksum_model
from cluster import BIN, Cluster


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return checksum_model.write_model(tmp_path_factory.mktemp("checksum"))


def requests():
    rng = random.Random(11)
    return [{"prompt": [rng.randrange(checksum_model.ORDINARY) for _ in range(rng.choice([1, 2, 17, 64, 65, 300]))],
             "max_tokens": rng.choice([1, 30, 100, 200]),
             "temperature": rng.choice([0, 1]),
             "seed": i,
             "return_token_ids": True} for i in range(24)]


def check(cluster, request):
    status, body = cluster.post("/v1/completions", request)
    assert status == 200, body
    choice = body["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["token_ids"] == checksum_model.answer(request["prompt"], request["max_tokens"])


def check_all_at_once(cluster):
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        for done in [pool.submit(check, cluster, request) for request in requests()]:
            done.result()


def test_one_process_gives_the_answers_alone_and_together(model):
    with Cluster(workers=0, model=model) as cluster:
        for request in requests()[:6]:
            check(cluster, request)
        check_all_at_once(cluster)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_give_the_answers(model, workers):
    with Cluster(workers=workers, model=model) as cluster:
        check_all_at_once(cluster)


@pytest.mark.parametrize("chunk", [1, 7])
def test_short_chunks_give_the_answers(model, chunk):
    with Cluster(workers=2, model=model, flags={"router": ["--chunk-tokens", chunk]}) as cluster:
        check_all_at_once(cluster)


def test_text_in_and_text_out_go_through_the_same_tokens(model):
    with Cluster(workers=2, model=model) as cluster:
        _, body = cluster.post("/tokenize", {"prompt": "Why does it rain?"})
        expected = checksum_model.answer(body["tokens"], 40)
        status, body = cluster.post("/v1/completions", {"prompt": "Why does it rain?", "max_tokens": 40,
                                                        "return_token_ids": True})
        assert (status, body["choices"][0]["token_ids"]) == (200, expected)
        messages = [{"role": "user", "content": "Why does it rain?"}]
        _, body = cluster.post("/tokenize", {"messages": messages})
        expected = checksum_model.answer(body["tokens"], 40)
        status, body = cluster.post("/v1/chat/completions", {"messages": messages, "max_tokens": 40,
                                                             "return_token_ids": True})
        assert (status, body["choices"][0]["token_ids"]) == (200, expected)


def test_an_answer_can_end_by_itself(tmp_path):
    settings = {"eos": 7, "alphabet": 50}
    with Cluster(workers=2, model=checksum_model.write_model(tmp_path, **settings)) as cluster:
        reasons = set()
        for i in range(20):
            expected = checksum_model.answer([i], 60, **settings)
            status, body = cluster.post("/v1/completions", {"prompt": [i], "max_tokens": 60, "temperature": 1,
                                                            "return_token_ids": True})
            assert status == 200, body
            choice = body["choices"][0]
            assert choice["token_ids"] == expected
            assert choice["finish_reason"] == ("stop" if expected[-1] == 7 else "length")
            reasons.add(choice["finish_reason"])
        assert reasons == {"stop", "length"}


def test_the_tools_know_the_model(model, tmp_path):
    shown = subprocess.run([BIN / "braid", "inspect", model], capture_output=True, text=True, check=True).stdout
    assert "architecture      checksum" in shown and "0 B" in shown
    done = subprocess.run([BIN / "braid", "convert", model, tmp_path / "out.gguf"], capture_output=True, text=True)
    assert done.returncode != 0 and "no weights to convert" in done.stderr


def test_another_alphabet_is_another_model(model, tmp_path):
    other = checksum_model.write_model(tmp_path, alphabet=100)
    shown = [subprocess.run([BIN / "braid", "inspect", path], capture_output=True, text=True, check=True).stdout
             for path in (model, other)]
    digests = [text.split("digest")[1].split()[0] for text in shown]
    assert digests[0] != digests[1]
