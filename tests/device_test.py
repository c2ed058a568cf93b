"""--device and what goes with it: what cannot be is refused at once, in one sentence that says what to do instead."""
import os
import pathlib
import subprocess

import pytest

from cluster import BIN, DEMO, ROOT, Cluster

HAS_DRIVER = pathlib.Path("/proc/driver/nvidia/version").exists() or pathlib.Path("/dev/dxg").exists()


def refusal(*command, **environment):
    """What a command that must fail says."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=60, cwd=ROOT,
                          env={**os.environ, **environment})
    assert done.returncode != 0, done.stdout
    said = (done.stdout + done.stderr).strip()
    assert len(said.splitlines()) == 1, said
    return said


def worker(*flags, **environment):
    return refusal(BIN / "braid-expert-worker", "--model", "/no/such/model", *flags, **environment)


CONTRADICTIONS = [
    (["--device", "tpu"], ["--device tpu", "cpu, cuda or cuda:N"]),
    (["--device", "cuda:-1"], ["--device cuda:-1", "cuda:0"]),
    (["--device", "cuda", "--kv-type", "int8"], ["--kv-type int8", "leave one"]),
    (["--device", "cuda", "--exchange", "ucx"], ["--exchange ucx", "nccl"]),
    (["--device", "cuda", "--fast", "--precision", "float32"], ["--precision float32", "--fast"]),
    (["--device", "cuda", "--precision", "fp4"], ["--precision fp4", "bf16, fp8 or float32"]),
    (["--exchange", "nccl"], ["--exchange nccl", "--device cuda"]),
    (["--fast"], ["--fast", "leave it out"]),
    (["--precision", "fp8"], ["--precision", "--device cuda"]),
]


@pytest.mark.parametrize("flags,words", CONTRADICTIONS, ids=[" ".join(c[0]) for c in CONTRADICTIONS])
def test_flags_that_contradict_each_other(flags, words):
    said = worker(*flags)
    assert all(word in said for word in words), said


def test_the_environment_says_it_too():
    assert "--device tpu" in worker(BRAID_WORKER_DEVICE="tpu")
    assert "--fast" in worker(BRAID_WORKER_EXACT="false")


def test_workers_do_not_share_a_gpu():
    said = refusal(BIN / "braid", "serve", "--model", DEMO, "--workers", 2, "--device", "cuda:1")
    assert "say --device cuda" in said


@pytest.mark.skipif(HAS_DRIVER, reason="this machine may have a GPU")
@pytest.mark.parametrize("command", [
    [BIN / "braid-expert-worker", "--model", "/no/such/model", "--device", "cuda"],
    [BIN / "braid", "serve", "--model", "/no/such/model", "--device", "cuda"],
    [BIN / "braid", "serve", "--model", "/no/such/model", "--device", "cuda", "--workers", 2],
    [BIN / "braid", "bench", "engine", "--model", "/no/such/model", "--device", "cuda"],
    ["./run", "demo", "--device", "cuda"],
    ["./run", "bench", "gpu"],
], ids=["worker", "serve", "serve --workers", "bench engine", "run demo", "run bench gpu"])
def test_without_a_gpu_one_sentence_says_what_is_missing(command):
    said = refusal(*command)
    assert "--device cuda" in said and "CPU" in said, said


def test_the_model_says_what_its_answers_depend_on():
    with Cluster(workers=1) as cluster:
        status, models = cluster.request("GET", "/v1/models")
        assert status == 200 and models["data"][0]["arithmetic"] == "cpu"
        assert models["data"][0]["kv_type"] == "bf16"
        assert cluster.worker_metric("braid_worker_info", 0) == 1
