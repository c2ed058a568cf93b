"""Rules and configuration pass promtool; every expression of dashboard and rules gives data from a live cluster.

Needs Debian's `prometheus` (promtool and the server); `./run test` installs it.
"""
import json
import pathlib
import re
import shutil
import subprocess
import tempfile
import threading
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


def wait_until(true, seconds=20):
    """Waits for true() to be true; what it raises while a server starts counts as false."""
    end = time.monotonic() + seconds
    while True:
        try:
            if true():
                return
        except OSError:
            pass
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)


class Traffic:
    """A request now and then until stopped, so that every rate has something to see."""

    def __init__(self, cluster):
        self.cluster, self.done = cluster, threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        seed = 0
        while not self.done.wait(0.2):
            seed += 1
            self.cluster.post("/v1/completions", {"prompt": "The river", "max_tokens": 20, "ignore_eos": True,
                                                  "seed": seed})

    def stop(self):
        self.done.set()
        self.thread.join()


@pytest.fixture(scope="module")
def scraped():
    """A cluster under a little load, scraped by a real Prometheus: (cluster, query function, the load)."""
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
            wait_until(lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=5).status == 200)
            traffic = Traffic(cluster)

            def query(expression):
                url = f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
                with urllib.request.urlopen(url, timeout=10) as answer:
                    return json.load(answer)["data"]["result"]
            yield cluster, query, traffic
        finally:
            traffic.stop()
            prometheus.terminate()
            prometheus.wait()
            shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.parametrize("where,expression", list(expressions()), ids=lambda value: None)
def test_expression_gives_data(scraped, where, expression):
    _, query, _ = scraped
    expression = expression.replace("$__rate_interval", "1m")
    def has_data():
        result = query(expression)
        return result and all(sample["value"][1] != "NaN" for sample in result)
    wait_until(has_data)  # the first scrapes may still be to come


def test_alerts_name_metrics_that_exist(scraped):
    """An alert on a metric nobody exports never fires."""
    _, query, _ = scraped
    for group in yaml.safe_load((MONITORING / "rules/alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            for name in set(re.findall(r"\bbraid_\w+", rule["expr"])):
                assert query(name), f"{rule['alert']}: no such metric as {name}"


def test_metrics_pass_the_linter(scraped):
    cluster, _, _ = scraped
    for port in [cluster.http_port, cluster.router_metrics_port, *cluster.worker_metrics_ports]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            promtool("check", "metrics", stdin=answer.read().decode())


def test_tokens_per_day_agrees_with_the_counter(scraped):
    cluster, _, traffic = scraped
    traffic.stop()
    counted = cluster.metric("braid_generated_tokens_total")
    wait_until(lambda: cluster.metric("braid_tokens_last_24h") == counted)  # the gauge follows within a second or two
    assert cluster.metric("braid_tokens_per_day") > 0
