"""`braid bench engine` on the demo model: all figures are there and belong together. None is asked how fast it is."""
import json
import subprocess

import pytest

from cluster import BIN, DEMO


def bench(*flags):
    return subprocess.run([BIN / "braid", "bench", "engine", *flags], capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def figures():
    done = bench("--model", DEMO, "--threads", "1", "--prompt", "40", "--chunk", "16", "--batch", "1,3",
                 "--context", "0,64", "--steps", "2", "--repeat", "2", "--json", "-")
    assert done.returncode == 0, done.stderr
    assert "decode, 3 sequences at 64" in done.stderr, "the table"
    return json.loads(done.stdout)


def test_points_are_those_asked_for(figures):
    assert [(p["kind"], p["sequences"], p.get("prompt_tokens", p.get("context_tokens")), p["steps"])
            for p in figures["points"]] == [("prompt", 1, 40, 6), ("decode", 1, 0, 4), ("decode", 3, 0, 4),
                                            ("decode", 1, 64, 4), ("decode", 3, 64, 4)]
    assert figures["threads"] == 1 and figures["chunk_tokens"] == 16


def test_a_share_is_of_the_limit_measured_beside_it(figures):
    for point in figures["points"]:
        assert len(point["samples"]) == 2
        for sample in point["samples"]:
            assert min(sample.values()) > 0
        shares = [s["tokens_per_second"] / s["limit_tokens_per_second"] for s in point["samples"]]
        assert point["limit_share"] == pytest.approx(sum(shares) / 2)


def test_ops_make_up_the_step(figures):
    for point in figures["points"]:
        ops = {op["op"]: op for op in point["ops_per_step"]}
        assert list(ops) == ["embed", "norm", "conv_in", "conv", "conv_out", "qkv", "rope", "attention", "attn_out",
                             "ffn", "router", "experts", "head"]
        assert all(op["laps"] > 0 and op["seconds"] > 0 for op in ops.values())
        assert ops["embed"]["laps"] == 1
        assert 0 < ops["head"]["laps"] <= 1  # of the chunks of a prompt the last alone has a head
    one, three = figures["points"][1:3]
    assert one["experts_per_layer"] < three["experts_per_layer"] <= 3 * one["experts_per_layer"]


def test_errors_name_what_is_wrong():
    done = bench("--model", DEMO, "--prompt", "1000000", "--batch", "0")
    assert done.returncode == 1 and "left out: prompt of 1000000: the model's context ends at" in done.stderr
    assert bench("--model", "nowhere.gguf").returncode == 1
    assert bench("--model", DEMO, "--repeat", "0").returncode != 0
