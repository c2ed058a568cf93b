"""Rules and configuration pass promtool; every expression of the dashboard and of the rules gives data from a live cluster.

Needs Debian's `prometheus` (promtool and the server); `./run test` installs it.
"""
import json
import pathlib
import re
import shutil
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request

import pytest
import yaml

from cluster import ROOT, Cluster, free_port

MONITORING = ROOT / "monitoring"
DASHBOARD = json.loads((MONITORING / "dashboards/braid.json").read_text())


def promtool(*arguments, stdin=None):
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, input=stdin)
    assert done.returncode == 0, done.stdout + done.stderr


def expressions():
    """(where, expression) of every dashboard target and recording rule."""
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield f"panel {panel['title']}", target["expr"]
    for group in yaml.safe_load((MONITORING / "rules/recording.yml").read_text())["groups"]:
        for rule in group["rules"]:
            yield f"rule {rule['record']}", rule["expr"]


def test_configuration_and_rules_are_valid():
    promtool("check", "config", MONITORING / "prometheus.yml")
    promtool("check", "rules", *sorted((MONITORING / "rules").glob("*.yml")))
    promtool("test", "rules", *sorted((MONITORING / "rules/tests").glob("*.yml")))


def test_dashboard_is_well_formed():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    cells = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        area = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24 and not area & cells, panel["title"]
        cells |= area
        assert panel["targets"] and panel["fieldConfig"]["defaults"]["unit"], panel["title"]


@pytest.fixture(scope="module")
def scraped():
    """A cluster under a little load, scraped by a real Prometheus; yields a query function."""
    with Cluster(workers=2, flags={"worker": ["--expert-metrics"]}) as cluster:
        directory = pathlib.Path(tempfile.mkdtemp(prefix="braid-prometheus-"))
        targets = {"braid-gateway": [cluster.http_port], "braid-router": [cluster.router_metrics_port],
                   "braid-expert-worker": cluster.worker_metrics_ports}
        config = {"global": {"scrape_interval": "1s"}, "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{p}" for p in ports]}]}
            for job, ports in targets.items()]}
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
        port = free_port()
        with open(directory / "log", "w") as log:
            prometheus = subprocess.Popen(
                ["prometheus", f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data",
                 f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
        try:
            for i in range(8):  # spread over several scrapes, so that rates have something to see
                status, answer = cluster.post("/v1/chat/completions", {
                    "messages": [{"role": "user", "content": "Tell me something."}], "max_tokens": 30, "seed": i})
                assert status == 200, answer
                time.sleep(0.7)

            def query(expression):
                url = f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
                with urllib.request.urlopen(url, timeout=10) as answer:
                    return json.load(answer)["data"]["result"]
            yield cluster, query
        finally:
            prometheus.terminate()
            prometheus.wait()
            shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.parametrize("where,expression", list(expressions()), ids=lambda value: None)
def test_expression_gives_data(scraped, where, expression):
    _, query = scraped
    expression = expression.replace("$__rate_interval", "1m")
    for _ in range(20):  # the first scrapes may still be to come
        result = query(expression)
        if result and all(sample["value"][1] != "NaN" for sample in result):
            return
        time.sleep(0.5)
    raise AssertionError(f"{where}: {expression} gives {result}")


def test_alerts_name_metrics_that_exist(scraped):
    """An alert on a metric nobody exports never fires."""
    _, query = scraped
    for group in yaml.safe_load((MONITORING / "rules/alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            for name in set(re.findall(r"\bbraid_\w+", rule["expr"])):
                assert query(name), f"{rule['alert']}: no such metric as {name}"


def test_metrics_pass_the_linter(scraped):
    cluster, _ = scraped
    for port in [cluster.http_port, cluster.router_metrics_port, *cluster.worker_metrics_ports]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            promtool("check", "metrics", stdin=answer.read().decode())


def test_tokens_per_day_agrees_with_the_counter(scraped):
    cluster, _ = scraped
    counted = cluster.metric("braid_generated_tokens_total")
    assert cluster.metric("braid_tokens_last_24h") == counted
    assert cluster.metric("braid_tokens_per_day") > 0
