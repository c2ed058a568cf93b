"""A LAN for tests, see switch.py: host 1 has router, gateway and clients, each worker has a host of its own.

Needs root (CAP_NET_ADMIN and CAP_SYS_ADMIN) and /dev/net/tun; unavailable() says what is missing.
"""
import json
import os
import pathlib
import subprocess
import sys

from cluster import Cluster
from faults.switch import CLONE_NEWNET, LIBC, address, check

SWITCH = pathlib.Path(__file__).with_name("switch.py")


def unavailable():
    """Why there can be no LAN here; empty if there can."""
    try:
        done = subprocess.run([sys.executable, SWITCH, "1"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except OSError as error:
        return str(error)
    return "" if done.returncode == 0 else f"no network namespaces here: {done.stderr.strip().splitlines()[-1]}"


class Lan:
    """The switch as a process of its own. While entered, this thread, and what it starts, is on host 1."""

    def __init__(self, hosts):
        self.hosts = hosts

    def __enter__(self):
        self.home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        self.switch = subprocess.Popen([sys.executable, SWITCH, str(self.hosts)], stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE, text=True)
        self.namespaces = json.loads(self.switch.stdout.readline())
        with open(self.namespaces["1"]) as namespace:
            check(LIBC.setns(namespace.fileno(), CLONE_NEWNET))
        return self

    def __exit__(self, *_):
        check(LIBC.setns(self.home, CLONE_NEWNET))
        os.close(self.home)
        self.switch.stdin.close()
        self.switch.wait()
        self.switch.stdout.close()

    def on_host(self, host):
        """What to put in front of a command to run it there. UCX looks for devices in /sys, which shows those of the
        namespace that mounted it."""
        return ["nsenter", f"--net={self.namespaces[str(host)]}", "unshare", "--mount", "sh", "-c",
                'mount -t sysfs sysfs /sys && exec "$@"', "sh"]

    def set_link(self, source, target, loss=0.0, delay_ms=0.0):
        """One direction."""
        self.switch.stdin.write(json.dumps({"from": source, "to": target, "loss": loss, "delay_ms": delay_ms}) + "\n")
        self.switch.stdin.flush()
        self.switch.stdout.readline()

    def set_pair(self, a, b, **rule):
        self.set_link(a, b, **rule)
        self.set_link(b, a, **rule)

    def set_all(self, **rule):
        for a in range(1, self.hosts + 1):
            for b in range(a + 1, self.hosts + 1):
                self.set_pair(a, b, **rule)

    def cut_off(self, host, loss=1.0):
        """From everybody; loss=0 heals it."""
        for other in range(1, self.hosts + 1):
            if other != host:
                self.set_pair(host, other, loss=loss)


class LanCluster(Cluster):
    """A cluster on a Lan: worker i is alone on host i + 2, the rest is on host 1."""

    host = address(1)

    def __init__(self, lan, workers, model, flags=None):
        worker_flags = ["--ucx-transports", "tcp,self", "--metrics-host", "0.0.0.0"]
        super().__init__(workers, model, {**(flags or {}), "worker": worker_flags})
        self.lan = lan

    def start_worker(self, index):
        super().start_worker(index, prefix=self.lan.on_host(index + 2))

    def worker_metric(self, name, index):
        return self.metric(name, self.worker_metrics_ports[index], host=address(index + 2))
