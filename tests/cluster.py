"""Real processes on loopback for tests: a gateway, a router and expert workers, or `braid serve`."""
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
BIN = pathlib.Path(os.environ.get("BRAID_BIN", ROOT / "build/release/bin"))
DEMO = ROOT / "model/demo"


taken_ports = []  # sockets that keep other tests off what this one was given


def free_port():
    """Of those below where connections begin: nobody else gets it between now and its program's start."""
    while True:
        port = random.SystemRandom().randrange(10000, 32000)
        try:
            taken = socket.socket(socket.AF_UNIX)
            taken.bind(f"\0braid-test-port-{port}")
            with socket.socket() as s:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                s.bind(("127.0.0.1", port))
        except OSError:
            continue
        taken_ports.append(taken)
        return port


class Cluster:
    """Starts on `with`, ends with it. workers=0 is `braid serve` in one process; N is N worker processes.

    `flags` holds more arguments per role: {"gateway": [...], "router": [...], "worker": [...], "serve": [...]}.
    """

    host = "127.0.0.1"  # where the router listens
    worker_program = BIN / "braid-expert-worker"

    def __init__(self, workers=2, model=DEMO, flags=None, ready_timeout_s=120, groups=0):
        self.workers, self.model, self.flags, self.groups = workers, str(model), flags or {}, groups
        self.http_port, self.grpc_port, self.router_port = free_port(), free_port(), free_port()
        self.router_metrics_port = free_port()
        self.worker_metrics_ports = [free_port() for _ in range(workers)]
        self.ready_timeout_s = ready_timeout_s
        self.processes = {}
        self.url = f"http://127.0.0.1:{self.http_port}"
        self.grpc_address = f"127.0.0.1:{self.grpc_port}"

    def __enter__(self):
        self.logs = pathlib.Path(tempfile.mkdtemp(prefix="braid-test-"))
        try:
            self._start_serve() if self.workers == 0 else self._start_processes()
            self.wait_ready()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_):
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.send_signal(signal.SIGCONT)  # a test may have stopped it
        for name, process in self.processes.items():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                print(f"{name} did not end on SIGTERM; its log:\n{self.log(name)[-2000:]}")
        shutil.rmtree(self.logs, ignore_errors=True)

    def _start(self, name, *command):
        with open(self.logs / name, "ab") as log:
            self.processes[name] = subprocess.Popen([str(c) for c in command], stdout=log, stderr=log,
                                                    stdin=subprocess.DEVNULL)

    def _start_serve(self):
        self._start("serve", BIN / "braid", "serve", "--model", self.model, "--port", self.http_port,
                    "--grpc-port", self.grpc_port, "--drain-seconds", 5, *self.flags.get("serve", []))

    def _start_processes(self):
        self.start_router()
        for rank in range(self.workers):
            self.start_worker(rank)
        self._start("gateway", BIN / "braid-gateway", "--model", self.model,
                    "--router", f"{self.host}:{self.router_port}", "--port", self.http_port,
                    "--grpc-port", self.grpc_port, *self.flags.get("gateway", []))

    def start_router(self):
        self._start("router", BIN / "braid-router", "--listen", f"{self.host}:{self.router_port}",
                    "--workers", self.workers // max(1, self.groups), "--groups", self.groups,
                    "--metrics-port", self.router_metrics_port,
                    *self.flags.get("router", []))

    def worker_flags(self, index):
        return self.flags.get("worker", [])

    def start_worker(self, index, prefix=()):
        """Also one more than there were, or one that has ended. `prefix` goes before the command."""
        while len(self.worker_metrics_ports) <= index:
            self.worker_metrics_ports.append(free_port())
        self._start(f"worker-{index}", *prefix, self.worker_program, "--model", self.model,
                    "--router", f"{self.host}:{self.router_port}", "--name", f"worker-{index}", "--threads", 1,
                    "--metrics-port", self.worker_metrics_ports[index], *self.worker_flags(index))

    def log(self, name):
        return (self.logs / name).read_text(errors="replace")

    def last_words(self):
        return "\n".join(f"--- {name}\n{self.log(name)[-1500:]}" for name in self.processes)

    def wait_ready(self):
        end = time.monotonic() + self.ready_timeout_s
        state = "no answer"
        while time.monotonic() < end:
            for name, process in self.processes.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{name} ended with {process.returncode}:\n{self.log(name)[-4000:]}")
            try:
                if self.request("GET", "/health")[0] == 200:
                    return
                state = self.request("GET", "/health")[1]
            except OSError as error:
                state = error
            time.sleep(0.05)
        raise RuntimeError(f"not ready after {self.ready_timeout_s} s: {state}\n{self.last_words()}")

    def request(self, method, path, body=None, headers=None, timeout_s=120):
        """(status, parsed JSON or text). `body`: bytes as they are, anything else as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method,
                                         headers={"Content-Type": "application/json", **(headers or {})})
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as answer:
                status, text = answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read().decode()
        try:
            return status, json.loads(text)
        except json.JSONDecodeError:
            return status, text

    def post(self, path, body, **kwargs):
        return self.request("POST", path, body, **kwargs)

    def stream(self, path, body, timeout_s=120):
        """The events of a streamed answer, parsed, as they come."""
        request = urllib.request.Request(self.url + path, data=json.dumps({**body, "stream": True}).encode(),
                                         headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            for line in answer:
                if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
                    yield json.loads(line[6:])

    def metric(self, name, port=None, host="127.0.0.1"):
        """The sum over all label sets of a metric; of the gateway's (or the whole `serve`) by default."""
        with urllib.request.urlopen(f"http://{host}:{port or self.http_port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        values = [float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name]
        if not values:
            raise KeyError(name)
        return sum(values)

    def running_workers(self):
        """The indices of the worker processes that run."""
        return [index for index in range(len(self.worker_metrics_ports))
                if f"worker-{index}" in self.processes and self.processes[f"worker-{index}"].poll() is None]

    def serving_workers(self):
        """Those of them that are members of the epoch that serves."""
        epoch = self.router_metric("braid_router_epoch")
        return [index for index in self.running_workers()
                if epoch > 0 and self.worker_metric("braid_worker_epoch", index) == epoch]

    def worker_metric(self, name, index):
        return self.metric(name, self.worker_metrics_ports[index])

    def router_metric(self, name):
        return self.metric(name, self.router_metrics_port)

    def wait_serving(self, count=None, timeout_s=60):
        """Until so many workers serve; without a count, all that run."""
        self.wait_until(lambda: len(self.serving_workers()) == (count or len(self.running_workers())), timeout_s)

    def wait_until(self, true, timeout_s=60):
        """Waits for true() to be true; what it raises while a process starts counts as false."""
        end = time.monotonic() + timeout_s
        while True:
            try:
                if true():
                    return
            except (OSError, KeyError):
                pass
            assert time.monotonic() < end, f"waited {timeout_s} s in vain\n{self.last_words()}"
            time.sleep(0.02)

    def kill(self, name, sig=signal.SIGKILL):
        self.processes[name].send_signal(sig)
        self.processes[name].wait()
