"""./run bench gpu: what it writes of given figures, and all of it over emulated kernels and faked libraries."""
import json
import os
import pathlib
import subprocess
import sys

import pytest

from cluster import BIN, DEMO, ROOT
from on_gpu import report

import measured
import roofline

TESTS = pathlib.Path(os.environ.get("BRAID_TESTS", BIN.parent / "tests"))
EMULATED = TESTS / "braid-bench-emulated"
emulated = pytest.mark.skipif(not EMULATED.exists(), reason="nothing is emulated: no headers of CUDA and NCCL here")


def figures_at(times_the_floor, **other):
    """As an engine would report that takes so many times the floors for each op, and nothing between them."""
    points, chunk = [], 4096
    for _, T, context, prefill in roofline.SIZES:
        steps = -(-T // chunk) if prefill else 1
        seconds = {name: times_the_floor * count * cost.seconds() / steps
                   for name, count, cost in roofline.ops(T, context, prefill)}
        step = sum(seconds.values()) * steps
        point = {"kind": "prompt", "prompt_tokens": T} if prefill else {
            "kind": "decode", "sequences": T, "context_tokens": context, "graph_launches": 281}
        ops = [{"op": measured.NAMES[name], "seconds": s} for name, s in seconds.items()]
        points.append({**point, "tokens_per_second": T / step, "plain_step_seconds": 2 * step / steps,
                       "ops_per_step": ops})
    return {"points": points, "chunk_tokens": chunk, "weight_bytes": 16.7e9, "device_name": "NVIDIA H100 80GB HBM3",
            **other}


def test_each_op_and_step_stands_beside_its_floor():
    figures = figures_at(2)
    ops = {line.split(" | ")[0]: line.split(" | ")[1:] for line in measured.op_table(figures)[2:]}
    assert ops["| experts down x 22"][1] == "69, 139, 50%"
    assert ops["| attention x 6"][7].strip(" |") == "278, 556, 50%", "a prompt of two chunks is one size"
    steps = measured.step_table(figures)[2:]
    decode = [cell.strip() for cell in steps[1].strip("|").split("|")]
    assert decode[0] == "decode 32" and decode[1] == "5.15" and decode[6] == "50%" and decode[7] == "281"
    assert float(decode[3]) == pytest.approx(2 * float(decode[4]), rel=0.01)
    assert [cell.strip() for cell in steps[-1].strip("|").split("|")][4] == "-", "a prefill is no graph"


def test_what_was_not_measured_is_a_dash():
    figures = figures_at(2)
    figures["points"] = figures["points"][:1]
    assert all(line.count(" - |") == len(roofline.SIZES) - 1 for line in measured.op_table(figures)[2:])


def test_a_reader_is_told_what_cannot_be_compared():
    assert measured.caution(figures_at(1)) == ""
    assert "4.7 GB" in measured.caution(figures_at(1, weight_bytes=4.7e9))
    assert "A100" in measured.caution(figures_at(1, device_name="NVIDIA A100"))


def test_the_exchange_is_measured_with_the_pages_slots():
    slots = [size for _, _, size in measured.exchange_slots(4)]
    assert set(slots) <= set(report.slot_sizes(4))
    figures = {"gpus": 4, "all_to_alls": [{"slot_bytes": size, "plain_seconds": 3e-5, "graph_seconds": 2e-5,
                                           "bytes_per_second": 3e11} for size in slots]}
    assert all("| 30 | 20 | 300 |" in line for line in measured.exchange_table(figures)[2:])


def test_measured_tables_have_their_places_on_the_page():
    page = (ROOT / "kernels/cuda/README.md").read_text()
    exchange = {"gpus": 2, "all_to_alls": []}
    assert "69, 139, 50%" in roofline.updated(page, measured.pages(figures_at(2), exchange))


def bench(out, *flags):
    done = subprocess.run([sys.executable, "-m", "on_gpu.bench", "--gpus", "2", "--bench-program", EMULATED, "--out",
                           out, *flags], capture_output=True, text=True, timeout=240, cwd=ROOT,
                          env={**os.environ, "PYTHONPATH": "tests", "BRAID_BIN": str(BIN), "FAKE_CUDA_DEVICES": "2"})
    return done, out.read_text()


@emulated
def test_all_that_is_measured_is_in_one_file(tmp_path):
    done, text = bench(tmp_path / "gpu.md", "--only", "engine,exchange", "--model", DEMO, "--batch", "1,3", "--context",
                       "64", "--prompt", "40", "--chunk", "32", "--steps", "3", "--repeat", "1", "--rounds", "1")
    assert done.returncode == 0, done.stderr + text
    assert "| engine | passed |" in text and "| exchange | passed |" in text
    assert "Emulated GPU 0" in text and "## The exchange" in text and "GB/s out" in text
    figures = json.loads((tmp_path / "gpu.engine.json").read_text())
    for point in figures["points"]:
        ops = {op["op"]: op for op in point["ops_per_step"]}
        assert set(ops) == set(measured.NAMES.values()), "all ops of the page, and no others"
        assert all(op["seconds"] > 0 for op in ops.values())
        assert point["plain_step_seconds"] > 0
        assert (point["graph_launches"] > 50) == (point["kind"] == "decode")
    assert figures["points"][2]["experts_per_layer"] > 2.5, "random rows go to different experts"
    exchange = json.loads((tmp_path / "gpu.exchange.json").read_text())
    assert len(exchange["all_to_alls"]) == len(report.slot_sizes(2))
    assert exchange["nccl_bytes"] < exchange["nccl_bytes_planned"], "what workers set aside is enough"


@emulated
def test_what_fails_is_in_the_file_too(tmp_path):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho the third row is wrong\nexit 1\n")
    broken.chmod(0o755)
    done, text = bench(tmp_path / "gpu.md", "--only", "checks,engine", "--checks-program", broken, "--model",
                       "/no/such/model")
    assert done.returncode == 1 and "failed: kernels, engine" in done.stdout
    assert "| kernels | **failed** (1) |" in text and "the third row is wrong" in text and "/no/such/model" in text


@emulated
def test_without_a_driver_nothing_is_said_to_have_passed():
    done = subprocess.run([TESTS / "gpu_checks_emulated"], capture_output=True, text=True, timeout=60,
                          env={**os.environ, "FAKE_CUDA_ERROR": "insufficient_driver"})
    assert done.returncode != 0 and "no GPU to check kernels on" in done.stdout
