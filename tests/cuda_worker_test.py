"""Workers on GPUs in real clusters: the worker's own main, with kernels emulated and CUDA's libraries faked
(cuda_emulator/README.md). On real GPUs: BRAID_CUDA_WORKER is the program, BRAID_CUDA_GPUS how many there are.

In float32 a GPU's answers are the CPU's, token by token. In bfloat16 they are its own, the same to the last bit of
their log probabilities whatever the batch, the chunks of prompts, the number of GPUs, and whoever dies on the way.
"""
import concurrent.futures
import os
import pathlib
import random
import socket
import subprocess

import pytest

from cluster import BIN, Cluster
from faults.client import ask_together
from faults.lan import Lan, unavailable
from faults.switch import address
from faults.workload import CHAT, COMPLETION, WEATHER, Workload, undisturbed, user
from same_bits_test import WORDS, ask

EMULATED = pathlib.Path(os.environ.get("BRAID_TESTS", BIN.parent / "tests")) / "braid-expert-worker-emulated"
WORKER = pathlib.Path(os.environ.get("BRAID_CUDA_WORKER", EMULATED))
GPUS = int(os.environ.get("BRAID_CUDA_GPUS", 4))
pytestmark = pytest.mark.skipif(not WORKER.exists(), reason="the emulated worker is not built: no CUDA headers here")
NO_LAN = unavailable()

TOKENS = 20  # of a long answer


class Gpus(Cluster):
    """Each worker has a GPU of its own. An emulated one is slow, and has no more memory than this machine gives it."""
    worker_program = WORKER

    def __init__(self, workers, precision="bf16", router=(), worker=(), gateway=(), heartbeat_timeout_ms=10000,
                 **options):
        if workers > GPUS:
            pytest.skip(f"{workers} workers need as many GPUs, there are {GPUS}")
        super().__init__(workers, flags={
            "worker": ["--precision", precision, "--sequences-max", 12, "--step-tokens-max", 64, *worker],
            "router": ["--heartbeat-timeout-ms", heartbeat_timeout_ms, *router], "gateway": gateway}, **options)

    def __enter__(self):
        os.environ.update(FAKE_CUDA_DEVICES="8", FAKE_CUDA_ONE_DEVICE="1")
        return super().__enter__()

    def worker_flags(self, index):
        return ["--device", f"cuda:{index}", *super().worker_flags(index)]


def requests():
    """What users ask for, in small: greedy and sampled, with log probabilities, penalties, prompt scores, choices."""
    rng = random.Random(5)
    return [{
        "prompt": " ".join(rng.choice(WORDS) for _ in range(length)),
        "max_tokens": 8,
        "temperature": [0, 0.7, 1.0][i % 3],
        "top_k": 5 if i % 3 == 2 else 0,
        "top_p": 0.9 if i % 4 == 3 else 1.0,
        "min_p": 0.05 if i % 4 == 1 else 0.0,
        "repetition_penalty": 1.2 if i == 2 else 1.0,
        "frequency_penalty": 0.5 if i == 5 else 0.0,
        "seed": i,
        "n": 2 if i == 4 else 1,
        "echo": i == 3,
        "logprobs": 3 if i % 2 == 1 else None,  # without, tokens are drawn on the device
        "ignore_eos": i % 2 == 0,
        "return_token_ids": True,
    } for i, length in enumerate([1, 3, 9, 12, 5, 40, 2])]


def alone(cluster):
    return [ask(cluster, request) for request in requests()]


def together(cluster, seed=0, count=None):
    order = list(range(len(requests()[:count])))
    random.Random(seed).shuffle(order)
    with concurrent.futures.ThreadPoolExecutor(len(order)) as pool:
        futures = {i: pool.submit(ask, cluster, requests()[i]) for i in order}
        return [futures[i].result() for i in range(len(order))]


def token_ids(answers):
    return [[choice[0] for choice in answer] for answer in answers]


@pytest.fixture(scope="module")
def cpu():
    with Cluster(workers=0) as cluster:
        return token_ids(together(cluster))


@pytest.fixture(scope="module")
def one_gpu():
    """The answers of one, each request alone and nothing shared; and those of the requests that faults fall upon."""
    with Gpus(1, gateway=["--share-prefixes", "none"]) as cluster:
        return alone(cluster), undisturbed(cluster, long_requests())


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_in_float32_its_tokens_are_the_cpus(cpu, workers):
    with Gpus(workers, "float32") as cluster:
        assert token_ids(together(cluster)) == cpu
        assert f"its GPU is in {socket.gethostname()} " in cluster.log("router")
        assert cluster.router_metric("braid_router_groups_ready") == 1, "of all GPUs of this machine"
        assert cluster.request("GET", "/v1/models")[1]["data"][0]["arithmetic"] == "cuda float32"


@pytest.mark.parametrize("workers,groups,chunk", [(1, 0, 1), (2, 1, 7), (4, 0, 64), (2, 2, 256)])
def test_in_bfloat16_its_answers_do_not_depend_on_the_cluster(one_gpu, workers, groups, chunk):
    with Gpus(workers, router=["--chunk-tokens", chunk], worker=["--ranks-max", workers], groups=groups) as cluster:
        assert together(cluster) == one_gpu[0]
        assert together(cluster, seed=1) == one_gpu[0], "from what was computed before"
        assert cluster.router_metric("braid_router_prefix_hit_tokens_total") > 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_step_starts_before_the_host_knows_the_tokens_of_the_last_one(workers):
    def text(cluster, request):
        status, answer = cluster.post("/v1/completions", request)
        assert status == 200, answer
        return answer["choices"][0]["text"]

    plain = [{"prompt": "The river", "max_tokens": 14, "temperature": 0, "ignore_eos": True},
             {"prompt": "The river", "max_tokens": 12, "temperature": 1, "seed": 5},
             {"prompt": "Once", "max_tokens": 10, "temperature": 0.8, "top_p": 0.9, "top_k": 20, "seed": 7}]
    with Cluster(workers=1) as cpu:
        expected = [text(cpu, request) for request in plain]
    # Guesses would know the tokens too soon.
    with Gpus(workers, "float32", router=["--draft-tokens-max", 0]) as cluster:
        assert [text(cluster, request) for request in plain] == expected
        with concurrent.futures.ThreadPoolExecutor() as pool:
            assert list(pool.map(lambda request: text(cluster, request), plain)) == expected
        assert sum(cluster.worker_metric("braid_worker_steps_ahead_total", i) for i in range(workers)) > 0
        for i in range(workers):
            exchange = cluster.worker_metric("braid_worker_exchange_seconds_total", i)
            steps = cluster.worker_metric("braid_worker_step_seconds_sum", i)
            assert 0 < exchange < steps if workers > 1 else exchange == 0


def refusal(environment, device):
    done = subprocess.run([WORKER, "--model", "/no/such/model", "--device", device], capture_output=True, text=True,
                          timeout=60, env={**os.environ, **environment})
    assert done.returncode == 1
    return done.stdout + done.stderr


def arithmetic(cluster):
    return cluster.request("GET", "/v1/models")[1]["data"][0]["arithmetic"]


@pytest.mark.parametrize("precision,worker,says", [("bf16", ["--weights", "fp8"], "cuda bf16 exact fp8 weights"),
                                                   ("fp8", ["--overlap-rows", 4], "cuda fp8 exact")],
                         ids=["weights", "rows too, and halves"])
def test_in_fp8_its_answers_do_not_depend_on_the_cluster(precision, worker, says):
    if "--weights fp8 instead" in refusal({"BRAID_WORKER_PRECISION": precision}, "cuda:0"):
        pytest.skip("older GPUs do not multiply FP8 by FP8")
    with Gpus(1, precision, worker=worker) as cluster:
        assert arithmetic(cluster) == says
        alone = [ask(cluster, request) for request in requests()[:4]]
    with Gpus(2, precision, router=["--chunk-tokens", 5], worker=worker) as cluster:
        assert together(cluster, count=4) == alone


def test_steps_in_halves_give_the_same_answers(cpu):
    with Gpus(2, "float32", worker=["--overlap-rows", 2]) as cluster:
        assert token_ids(together(cluster)) == cpu


def test_fast_answers_and_says_that_it_is():
    # The fake's sums are others with each number of rows, so that nothing can be said of the tokens.
    with Gpus(1, worker=["--fast"]) as cluster:
        assert arithmetic(cluster) == "cuda bf16 fast"
        for request in requests()[:3]:
            for choice in ask(cluster, {**request, "ignore_eos": True}):
                assert len(choice[0]) == request["max_tokens"]


# ---- Faults.


def long_requests():
    whole = {"max_tokens": TOKENS, "ignore_eos": True}
    return [
        (COMPLETION, {"prompt": "What can you do?", "temperature": 0, **whole}),
        (COMPLETION, {"prompt": "The river and the garden", "temperature": 1.0, "seed": 1, "logprobs": 2, **whole}),
        (CHAT, {"messages": user("What is the weather in Lima?"), "tools": [WEATHER], "temperature": 0,
                "logprobs": True, "top_logprobs": 2}),
        (CHAT, {"messages": user("Tell me something."), "temperature": 0.9, "seed": 2, "n": 2,
                "repetition_penalty": 1.3, "presence_penalty": 0.4, **whole}),
    ]


def check(cluster, one_gpu, what, at_token=None):
    """All answers are the undisturbed ones. Returns their longest pause."""
    workload = Workload(cluster.model, long_requests(), one_gpu[1], TOKENS)
    histories = ask_together(cluster.url, workload.requests, at_token, timeout_s=60)
    problems = workload.problems(histories)
    assert not problems, "\n".join([what, *problems, cluster.last_words()])
    return max(history.longest_pause()[0] for history in histories)


def check_nothing_is_left(cluster):
    """What an epoch ends with: its graphs first, or its communicator cannot be closed; and on its own device."""
    logs = "".join(cluster.log(name) for name in cluster.processes)
    assert "makes a context" not in logs, cluster.last_words()
    assert "left behind" not in logs and "waits for" not in logs, cluster.last_words()


def test_a_worker_is_killed_while_steps_are_graphs(one_gpu):
    pauses = []
    with Gpus(2) as cluster:
        for token, worker in [(1, 0), (8, 1), (16, 0)]:

            def kill():
                cluster.kill(f"worker-{worker}")
                cluster.start_worker(worker)

            pauses.append(check(cluster, one_gpu, f"worker {worker} was killed at token {token}", (token, kill)))
            cluster.wait_serving(2)
        assert cluster.router_metric("braid_router_epochs_lost_total") >= 3
        check_nothing_is_left(cluster)
    print(f"longest pauses: {', '.join(f'{pause:.2f}' for pause in pauses)} s")
    assert sorted(pauses)[1] < 5, "that long is a communicator waited for which its graphs keep open"


@pytest.mark.skipif(WORKER != EMULATED, reason="NCCL itself does not die when it is told to")
def test_a_rank_dies_in_the_middle_of_a_collective(one_gpu):
    """What has arrived of it is half of what was sent, and the abort lets all streams run to their end over it."""
    with Gpus(2) as cluster:
        for group in (25, 140):
            cluster.kill("worker-1")
            cluster.start_worker(1, prefix=["env", f"FAKE_NCCL_KILL_AT_GROUP={group}"])
            cluster.wait_serving(2)
            check(cluster, one_gpu, f"worker 1 died in its group {group}")
            assert cluster.processes["worker-1"].poll() == -9, "it did not come so far"
        check_nothing_is_left(cluster)


@pytest.mark.skipif(WORKER != EMULATED, reason="real GPUs do not fail when they are told to")
def test_a_worker_whose_gpu_has_failed_ends_and_says_so(one_gpu):
    with Gpus(2) as cluster:
        cluster.kill("worker-1")
        cluster.start_worker(1, prefix=["env", "FAKE_CUDA_FAILS_AT=2000"])
        cluster.wait_serving(2)
        check(cluster, one_gpu, "GPU 1 failed")
        assert cluster.processes["worker-1"].wait(20) == 1
        assert "this worker cannot go on, start it again" in cluster.log("worker-1"), cluster.last_words()
        check_nothing_is_left(cluster)


def test_a_gpu_has_memory_for_some_experts(one_gpu):
    """Three of four GPUs hold all of them together, no two do: what a dead one held is read in beside what serves."""
    with Gpus(4, worker=["--expert-slots", 17]) as cluster:
        check(cluster, one_gpu, "one was killed", (3, lambda: cluster.kill("worker-2")))
        cluster.wait_serving(3)
        check(cluster, one_gpu, "another comes", (3, lambda: cluster.start_worker(2)))
        cluster.wait_serving(4)
        check_nothing_is_left(cluster)


class GpusOfHosts(Gpus):
    """Each on a host of its own, on a network that can be cut."""
    host = address(1)

    def __init__(self, lan, workers, **options):
        super().__init__(workers, **options)
        self.lan = lan  # that this thread is on

    def start_worker(self, index):
        host = index + 2
        super().start_worker(index, prefix=["env", f"FAKE_NCCL_HOST={address(host)}", *self.lan.on_host(host)])


@pytest.mark.skipif(WORKER != EMULATED or NO_LAN != "", reason=NO_LAN or "cuts only what the fake of NCCL goes by")
def test_two_gpus_cannot_reach_each_other(one_gpu):
    """Both reach the router and the third: NCCL waits, and says neither how long nor for whom."""
    with Lan(hosts=4) as lan, GpusOfHosts(lan, 3, heartbeat_timeout_ms=2000) as cluster:
        pause = check(cluster, one_gpu, "two were cut from each other", (5, lambda: lan.set_pair(2, 3, loss=1)))
        assert cluster.router_metric("braid_router_links_cut_total") == 1
        assert "sits out" in cluster.log("router")
        print(f"pause {pause:.2f} s")


@pytest.mark.skipif(WORKER != EMULATED, reason="real GPUs lack nothing")
@pytest.mark.parametrize("environment,words", [
    ({"FAKE_CUDA_ERROR": "insufficient_driver"}, ["driver", "--device cpu"]),
    ({"FAKE_CUDA_DEVICES": "0"}, ["GPU", "--device cpu"]),
    ({"FAKE_CUDA_DEVICES": "1"}, ["cuda:3", "cuda:0", "--device cpu"]),
    ({"FAKE_CUDA_DEVICES": "4", "FAKE_CUDA_CAPABILITY": "8.0", "BRAID_WORKER_PRECISION": "fp8"},
     ["--precision fp8", "8.9", "cuda:3", "of 8.0", "--weights fp8"]),
], ids=["no driver", "no device", "no such device", "no FP8"])
def test_one_sentence_says_what_is_missing(environment, words):
    said = refusal(environment, "cuda:3")
    assert all(word in said for word in words), said
