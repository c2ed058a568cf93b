"""`braid bench serve` against a real cluster: its counts add up with each other and with the server's own metrics."""
import json
import subprocess

import pytest

from cluster import BIN, Cluster


def bench(url, *flags, expect=0):
    """(the JSON report, what was printed)"""
    done = subprocess.run([BIN / "braid", "bench", "serve", "--url", url, "--json", "-", *map(str, flags)],
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == expect, done.stderr
    return json.loads(done.stdout) if done.stdout else None, done.stderr


@pytest.fixture(scope="module")
def cluster():
    with Cluster(workers=2) as cluster:
        yield cluster


def check_sums(report):
    requests = report["requests"]
    complete = [r for r in requests if "error" not in r]
    assert len(requests) == report["requests_total"]
    assert len(complete) == report["requests_completed"]
    assert report["requests_failed"] == len(requests) - len(complete) == sum(
        error["count"] for error in report["errors"].values())
    assert sum(r["output_tokens"] for r in requests) == report["tokens"]["output"]
    assert sum(r["prompt_tokens"] for r in complete) == report["tokens"]["prompt"]
    assert report["latency_ms"]["ttft"]["count"] == report["latency_ms"]["end_to_end"]["count"] == len(complete)
    assert report["latency_ms"]["itl"]["count"] == sum(len(r["arrivals"]) - 1 for r in complete)
    for r in complete:
        assert sum(tokens for _, tokens in r["arrivals"]) == r["output_tokens"]  # every token was seen to arrive
        times = [r["scheduled_s"], r["sent_s"], *(at for at, _ in r["arrivals"]), r["ended_s"]]
        assert times == sorted(times)
    for figures in report["latency_ms"].values():
        assert 0 <= figures["p50"] <= figures["p90"] <= figures["p99"] <= figures["max"]
        assert figures["mean"] <= figures["max"]
    rate = report["tokens"]["output"] / report["duration_s"]
    assert report["throughput"]["output_tokens_per_s"] == pytest.approx(rate)


def test_fixed_concurrency(cluster):
    generated = cluster.metric("braid_generated_tokens_total")
    prompt = cluster.metric("braid_prompt_tokens_total")
    report, table = bench(cluster.url, "--concurrency", 8, "--requests", 40, "--warmup", 0, "--prompt-tokens", 50,
                          "--output-tokens", 20, "--prefix-tokens", 30, "--records", "--ttft-limit-ms", 60000)
    check_sums(report)
    assert report["requests_completed"] == 40 and report["tokens"]["counted_by_server"]
    assert report["tokens"]["output"] == 40 * 20 and report["tokens"]["prompt"] == 40 * 50
    assert report["goodput"]["share"] == 1 and report["setting"]["prompt_kind"] == "token_ids"
    assert "40 complete, 0 failed" in table and "first token (TTFT)" in table
    # The server counts the same, and what it was asked before: a handful of completions of one token.
    asked_before = cluster.metric("braid_generated_tokens_total") - generated - 40 * 20
    assert 0 < asked_before < 20
    assert asked_before <= cluster.metric("braid_prompt_tokens_total") - prompt - 40 * 50 < 60


def test_open_loop_repeats_its_schedule(cluster):
    flags = ("--rate", 20, "--requests", 30, "--prompt-tokens", 20, "--output-tokens", 8, "--records", "--seed", 3)
    first, second = bench(cluster.url, *flags)[0], bench(cluster.url, *flags, "--threads", 2)[0]
    check_sums(first)
    check_sums(second)
    assert first["requests_completed"] == second["requests_completed"] == 30
    for a, b in zip(first["requests"], second["requests"]):
        assert a["scheduled_s"] == pytest.approx(b["scheduled_s"], abs=1e-6)


def test_trace(cluster, tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n0.2,30,4\n0.0,10,6\n"
                     '{"arrival_s": 0.1, "prompt_tokens": 20, "output_tokens": 5}\n')
    report, _ = bench(cluster.url, "--trace", trace, "--warmup", 2, "--records")
    check_sums(report)
    assert [(r["prompt_tokens"], r["output_tokens"]) for r in report["requests"]] == [(10, 6), (20, 5), (30, 4)]
    report, _ = bench(cluster.url, "--trace", trace, "--concurrency", 1, "--requests", 4, "--records")
    assert [r["output_tokens"] for r in report["requests"]] == [6, 5, 4, 6]


def test_text_prompts(cluster):
    report, _ = bench(cluster.url, "--prompt", "text", "--concurrency", 2, "--requests", 6, "--prompt-tokens", 100,
                      "--output-tokens", 4, "--records")
    check_sums(report)
    assert report["setting"]["prompt_kind"] == "text"
    assert 60 < report["tokens"]["prompt"] / 6 < 140


def test_refused_requests_are_counted(cluster):
    """Longer than the model's context: each is refused, and the exit status says so."""
    report, table = bench(cluster.url, "--concurrency", 2, "--requests", 4, "--warmup", 0, "--prompt-tokens", 20,
                          "--output-tokens", 9_000_000, "--records", expect=2)
    check_sums(report)
    assert report["requests_failed"] == 4 and report["errors"]["http 400"]["count"] == 4
    assert "failed: 4 x http 400" in table


def test_a_server_that_dies_is_counted():
    with Cluster(workers=0) as cluster:
        process = subprocess.Popen([BIN / "braid", "bench", "serve", "--url", cluster.url, "--json", "-", "--records",
                                    "--concurrency", "4", "--duration-s", "4", "--output-tokens", "400",
                                    "--prompt-tokens", "20", "--warmup", "0"],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        before = cluster.metric("braid_generated_tokens_total")
        cluster.wait_until(lambda: cluster.metric("braid_generated_tokens_total") > before + 500)
        cluster.kill("serve")
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    report = json.loads(out)
    check_sums(report)
    assert set(report["errors"]) <= {"connect", "disconnected", "truncated"} and "connect" in report["errors"]


def test_without_a_server_there_is_nothing_to_measure():
    with Cluster(workers=0) as cluster:
        url = cluster.url
    _, words = bench(url, "--concurrency", 1, expect=1)
    assert "no answer from" in words
