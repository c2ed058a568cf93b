"""A packed file is the model it was packed from: the same bits, in one process, in many, and side by side with it."""
import subprocess

import pytest

from cluster import BIN, DEMO, Cluster
from same_bits_test import alone, together


def braid(*arguments):
    return subprocess.run([BIN / "braid", *map(str, arguments)], capture_output=True, text=True)


def convert(source, destination, *arguments):
    done = braid("convert", source, destination, *arguments)
    assert done.returncode == 0, done.stderr
    return destination


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    rows = convert(DEMO, folder / "rows.gguf", "--type", "q8_0")
    return rows, convert(rows, folder / "packed.gguf", "--format", "packed")


@pytest.fixture(scope="module")
def reference(files):
    with Cluster(workers=0, model=files[0]) as cluster:
        answers = alone(cluster)
        assert "--format packed" in cluster.log("serve"), "says how to start faster"
    return answers


def test_one_process(files, reference):
    with Cluster(workers=0, model=files[1]) as cluster:
        assert together(cluster) == reference
        assert "--format packed" not in cluster.log("serve")


@pytest.mark.parametrize("file", [0, 1], ids=["rows", "packed"])
def test_two_workers(files, reference, file):
    with Cluster(workers=2, model=files[file]) as cluster:
        assert together(cluster) == reference


def test_workers_with_either_file_form_one_cluster(files, reference):
    with Cluster(workers=2, model=files[1]) as cluster:
        cluster.kill("worker-1")
        cluster.model = files[0]
        cluster.start_worker(1)
        cluster.wait_serving(2)
        assert together(cluster) == reference


def test_inspect_verifies_and_finds_damage(files, tmp_path):
    done = braid("inspect", files[1], "--verify")
    assert done.returncode == 0 and "every tensor is what was packed" in done.stdout, done.stderr
    damaged = tmp_path / "damaged.gguf"
    data = bytearray(files[1].read_bytes())
    data[-20000] ^= 1
    damaged.write_bytes(data)
    done = braid("inspect", damaged, "--verify")
    assert done.returncode != 0 and "damaged, pack the model again" in done.stderr, done.stderr


def test_unpacks_to_the_same_file(files, tmp_path):
    assert convert(files[1], tmp_path / "rows.gguf").read_bytes() == files[0].read_bytes()
