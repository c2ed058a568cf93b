"""llama.cpp's server as a process of its own, to be measured beside ours."""
import pathlib
import subprocess
import sys
import time
import urllib.request

from cluster import free_port

SERVER = pathlib.Path(__file__).with_name("llama_server.py")


class LlamaServer:
    """kill() and start() at will; `with` starts it and waits until it serves."""

    def __init__(self, model, log, clients, client_tokens=1024, threads=2, ready_timeout_s=60):
        self.port = free_port()
        self.command = [sys.executable, SERVER, model, self.port, clients, client_tokens, threads]
        self.log, self.ready_timeout_s = log, ready_timeout_s
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self):
        self.process = subprocess.Popen([str(word) for word in self.command], stdout=self.log, stderr=self.log,
                                        stdin=subprocess.DEVNULL)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        self.start()
        end = time.monotonic() + self.ready_timeout_s
        while True:
            try:
                urllib.request.urlopen(self.url + "/health", timeout=5).close()
                return self
            except OSError:
                if time.monotonic() > end or self.process.poll() is not None:
                    self.kill()
                    raise RuntimeError("llama.cpp's server does not start")
                time.sleep(0.02)

    def __exit__(self, *_):
        self.kill()
