"""A store on loopback, and a proxy before it that fails on purpose."""

from __future__ import annotations

import http.client
import importlib.util
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

HOP = {"connection", "transfer-encoding", "content-length", "server", "date"}
KEY, SECRET = "AKIATESTTESTTESTTEST", "notASecretButLooksLikeOne0123456789abcdef"


def environment(endpoint):
    """What a program is told of a store."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
    }


def make_bucket(port, name):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("PUT", f"/{name}", b"")
    assert connection.getresponse().read() is not None
    connection.close()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def store_server():
    """A process that serves S3; its port."""
    if importlib.util.find_spec("moto") is None:  # to import it takes a second, for each worker
        pytest.skip("needs moto")
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(20)


class Proxy(ThreadingHTTPServer):
    """Passes requests on, but for those that `faults` takes.

    `faults` is called with the method and path and says what to do: a status to answer with,
    "hang", "cut" (half of the body, then the end), "lost" (done, and no answer), or None. Headers
    in `dropped` are not passed on.
    """

    daemon_threads = True

    def __init__(self, port, faults=lambda method, path: None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.to, self.faults = port, faults
        self.seen = []
        self.dropped = set()
        self.lock = threading.Lock()
        self.over = threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    @contextmanager
    def running(self):
        thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.over.set()
            self.shutdown()
            self.server_close()
            thread.join()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or a body waits until its header was acknowledged: 40 ms

    def handle_any(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.server.lock:
            self.server.seen.append((self.command, self.path, self.headers.get("Range", "")))
            fault = self.server.faults(self.command, self.path)
        if fault == "hang":
            self.server.over.wait(5)
            self.close_connection = True
            return
        if isinstance(fault, int):
            text = b"<Error><Code>SlowDown</Code><Message>" + KEY.encode() + b"</Message></Error>"
            self.answer(fault, [], text)
            return
        onward = http.client.HTTPConnection("127.0.0.1", self.server.to)
        kept = {k: v for k, v in self.headers.items() if k.lower() not in self.server.dropped}
        onward.request(self.command, self.path, body or None, kept)
        answer = onward.getresponse()
        data = answer.read()
        if fault == "lost":
            onward.close()
            self.close_connection = True
            return
        headers = [
            (k, v)
            for k, v in answer.getheaders()
            if k.lower()
            not in {"connection", "transfer-encoding", "content-length", "server", "date"}
        ]
        length = answer.getheader("Content-Length") if self.command == "HEAD" else None
        self.answer(answer.status, headers, data, length, cut=fault == "cut")
        onward.close()

    def answer(self, status, headers, data, length=None, *, cut=False):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection = cut

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any

    def log_message(self, *arguments):
        pass
