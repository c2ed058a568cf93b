"""Workers on GPUs in real clusters: the worker's own main, with kernels emulated and CUDA's libraries faked. On real
GPUs: BRAID_CUDA_WORKER is the program, BRAID_CUDA_GPUS how many there are.

In float32 a GPU's answers are the CPU's, token by token. In bfloat16 they are its own, the same whatever the cluster.
"""
import concurrent.futures
import os
import pathlib
import signal
import subprocess
import time

import pytest

from cluster import BIN, Cluster

EMULATED = pathlib.Path(os.environ.get("BRAID_TESTS", BIN.parent / "tests")) / "braid-expert-worker-emulated"
WORKER = pathlib.Path(os.environ.get("BRAID_CUDA_WORKER", EMULATED))
GPUS = int(os.environ.get("BRAID_CUDA_GPUS", 4))
pytestmark = pytest.mark.skipif(not WORKER.exists(), reason="the emulated worker is not built: no CUDA headers here")

REQUESTS = [
    {"prompt": "The river", "max_tokens": 12, "temperature": 0, "ignore_eos": True},
    {"prompt": "Once there was a lighthouse keeper who counted the waves, and every evening", "max_tokens": 8,
     "temperature": 1, "seed": 3, "ignore_eos": True},
    {"prompt": "To be, or not", "max_tokens": 8, "temperature": 0.8, "top_p": 0.9, "top_k": 20, "seed": 7,
     "frequency_penalty": 0.5, "ignore_eos": True},
    {"prompt": "1, 2, 3, 1, 2, 3, 1, 2, 3,", "max_tokens": 10, "temperature": 0, "ignore_eos": True},
]


class Gpus(Cluster):
    worker_program = WORKER

    def __init__(self, workers, precision="bf16", router=(), worker=()):
        if workers > GPUS:
            pytest.skip(f"{workers} workers need as many GPUs, there are {GPUS}")
        # An emulated GPU is slow, and has no more memory than this machine gives it.
        super().__init__(workers, flags={
            "worker": ["--precision", precision, "--sequences-max", 8, "--step-tokens-max", 64, *worker],
            "router": ["--heartbeat-timeout-ms", 10000, *router]})

    def __enter__(self):
        os.environ["FAKE_CUDA_DEVICES"] = "4"
        return super().__enter__()

    def worker_flags(self, index):
        return ["--device", f"cuda:{index}", *super().worker_flags(index)]


def ask(cluster, request):
    status, answer = cluster.post("/v1/completions", {**request, "logprobs": 0})
    assert status == 200, answer
    return answer["choices"][0]["logprobs"]["tokens"]


def answers(cluster):
    """Each alone, then all at once, which must make no difference."""
    alone = [ask(cluster, request) for request in REQUESTS]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        assert list(pool.map(lambda request: ask(cluster, request), REQUESTS)) == alone
    return alone


@pytest.fixture(scope="module")
def cpu():
    with Cluster(workers=1) as cluster:
        return answers(cluster)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_in_float32_its_answers_are_the_cpus(cpu, workers):
    with Gpus(workers, "float32") as cluster:
        assert answers(cluster) == cpu
        assert cluster.request("GET", "/v1/models")[1]["data"][0]["arithmetic"] == "cuda float32"


def test_in_bfloat16_its_answers_do_not_depend_on_the_cluster():
    with Gpus(1) as cluster:
        alone = answers(cluster)
    with Gpus(2, router=["--chunk-tokens", 5]) as cluster:
        assert answers(cluster) == alone


@pytest.mark.parametrize("workers", [1, 2])
def test_a_step_starts_before_the_host_knows_the_tokens_of_the_last_one(workers):
    def text(cluster, request):
        status, answer = cluster.post("/v1/completions", request)
        assert status == 200, answer
        return answer["choices"][0]["text"]

    plain = [{"prompt": "The river", "max_tokens": 40, "temperature": 0, "ignore_eos": True},
             {"prompt": "The river", "max_tokens": 40, "temperature": 1, "seed": 5},
             {"prompt": "Once", "max_tokens": 30, "temperature": 0.8, "top_p": 0.9, "top_k": 20, "seed": 7}]
    with Cluster(workers=1) as cpu:
        expected = [text(cpu, request) for request in plain]
    # Guesses would know the tokens too soon.
    with Gpus(workers, "float32", router=["--draft-tokens-max", 0]) as cluster:
        assert [text(cluster, request) for request in plain] == expected
        with concurrent.futures.ThreadPoolExecutor() as pool:
            assert list(pool.map(lambda request: text(cluster, request), plain)) == expected
        assert sum(cluster.worker_metric("braid_worker_steps_ahead_total", i) for i in range(workers)) > 0


def arithmetic(cluster):
    return cluster.request("GET", "/v1/models")[1]["data"][0]["arithmetic"]


def test_with_weights_in_fp8_its_answers_do_not_depend_on_the_cluster():
    with Gpus(1, worker=["--weights", "fp8"]) as cluster:
        assert arithmetic(cluster) == "cuda bf16 exact fp8 weights"
        alone = answers(cluster)
    with Gpus(2, router=["--chunk-tokens", 5], worker=["--weights", "fp8"]) as cluster:
        assert answers(cluster) == alone


def test_steps_in_halves_give_the_same_answers(cpu):
    with Gpus(2, "float32", worker=["--overlap-rows", 2]) as cluster:
        assert answers(cluster) == cpu


def test_fast_answers_and_says_that_it_is():
    # The fake's sums are others with each number of rows, so that nothing can be said of the tokens.
    with Gpus(1, worker=["--fast"]) as cluster:
        assert arithmetic(cluster) == "cuda bf16 fast"
        for request in REQUESTS:
            assert len(ask(cluster, request)) == request["max_tokens"]


def test_an_answer_goes_on_when_a_gpus_worker_is_killed():
    request = {**REQUESTS[0], "max_tokens": 40}
    with Gpus(2, "float32") as cluster:
        expected = ask(cluster, request)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            before = cluster.worker_metric("braid_worker_steps_total", 0)
            running = pool.submit(ask, cluster, request)
            while cluster.worker_metric("braid_worker_steps_total", 0) < before + 5:
                time.sleep(0.01)
            cluster.processes["worker-1"].send_signal(signal.SIGKILL)
            assert running.result() == expected


@pytest.mark.skipif(WORKER != EMULATED, reason="real GPUs lack nothing")
@pytest.mark.parametrize("environment,words", [
    ({"FAKE_CUDA_ERROR": "insufficient_driver"}, ["driver", "--device cpu"]),
    ({"FAKE_CUDA_DEVICES": "0"}, ["GPU", "--device cpu"]),
    ({"FAKE_CUDA_DEVICES": "1"}, ["cuda:3", "cuda:0", "--device cpu"]),
], ids=["no driver", "no device", "no such device"])
def test_one_sentence_says_what_is_missing(environment, words):
    done = subprocess.run([WORKER, "--model", "/no/such/model", "--device", "cuda:3"], capture_output=True, text=True,
                          timeout=60, env={**os.environ, **environment})
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert all(word in said for word in words), said
