"""Clients that write down all they see, with the time, and can act when a certain token arrives."""
import http.client
import json
import threading
import time
import urllib.parse

from faults.history import History, tokens_in

NOT_ACCEPTED = (0, 429, 503)  # nobody there, or asked to come again: nothing was promised
RETRY_S = 0.05


class Stream(threading.Thread):
    """One streamed request, read to its end in a thread of its own: start(), join(), then look at `history`.

    `at_token`: (k, action) calls action() on this thread when k tokens have come.
    """

    def __init__(self, url, path, body, at_token=None, timeout_s=300):
        super().__init__(daemon=True)
        self.url, self.timeout_s, self.at_token = urllib.parse.urlsplit(url), timeout_s, at_token
        self.history = History(path, body)

    def run(self):
        end = time.monotonic() + self.timeout_s
        while True:
            self._ask_once()
            if self.history.status not in NOT_ACCEPTED or time.monotonic() > end:
                return
            self.history.retries += 1
            time.sleep(RETRY_S)

    def _ask_once(self):
        self.history.status, self.history.broken = 0, ""
        connection = http.client.HTTPConnection(self.url.hostname, self.url.port, timeout=self.timeout_s)
        try:
            body = {**self.history.body, "stream": True, "return_token_ids": True,
                    "stream_options": {"include_usage": True}}
            connection.request("POST", self.history.path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            self.history.status = answer.status
            if answer.status == 200:
                self._read(answer)
            else:
                answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.history.broken = repr(error)
        finally:
            connection.close()

    def _read(self, answer):
        tokens = 0
        for line in answer:
            if not line.startswith(b"data: "):
                continue
            payload = line[6:].strip().decode()
            self.history.events.append((time.monotonic(), payload))
            if self.at_token and payload.startswith("{"):
                tokens += tokens_in(json.loads(payload))
                if tokens >= self.at_token[0]:
                    _, action = self.at_token
                    self.at_token = None
                    action()


def ask(url, path, body, **options):
    """The history of one request, read to its end."""
    stream = Stream(url, path, body, **options)
    stream.run()
    return stream.history


def ask_together(url, requests, at_token=None, timeout_s=300):
    """The histories of requests sent at once. `at_token`, see Stream, counts the tokens of the first one."""
    streams = [Stream(url, path, body, at_token if i == 0 else None, timeout_s)
               for i, (path, body) in enumerate(requests)]
    for stream in streams:
        stream.start()
    for stream in streams:
        stream.join(timeout_s + 10)
    assert not any(stream.is_alive() for stream in streams), f"a stream has not ended after {timeout_s} s"
    return [stream.history for stream in streams]
