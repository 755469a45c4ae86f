"""A process in the place of a vLLM server's: it passes requests on to a FakeVllm in the test's own
process, which takes no time to start, and ends or stalls on demand.

    FAKE_VLLM_PORT=… python tests/support/network/fake_vllm_process.py --uds SOCKET --model DIR …

FAKE_VLLM_FAULT=PATH:NUMBER:SIGNAL is what it sends itself at a request. Standard library only.
"""

import argparse
import http.client
import json
import os
import sys
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

PORT = int(os.environ["FAKE_VLLM_PORT"])
FAULT = os.environ.get("FAKE_VLLM_FAULT", "")


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    request_queue_size = 128
    met = 0

    def handle_error(self, *_: object) -> None:
        """Of a client that has gone."""


class _Requests(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self._pass_on(b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        path, _, rest = FAULT.partition(":")
        number, _, signal = rest.partition(":")
        if self.path.partition("?")[0] == path:
            self.server.met += 1
            if self.server.met == int(number):
                os.kill(os.getpid(), int(signal))
        self._pass_on(body or b"{}")

    def _pass_on(self, body: bytes) -> None:
        status, content = answer_to(self.command, self.path, body)
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


def answer_to(method: str, path: str, body: bytes) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", PORT)
    connection.request(method, path, body)
    response = connection.getresponse()
    return response.status, response.read()


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--uds", required=True)
    parser.add_argument("--model", required=True)
    options, _ = parser.parse_known_args(arguments)
    answer_to("POST", "/fake/start", json.dumps({"folder": options.model}).encode())
    with _Server(options.uds, _Requests) as server:
        server.serve_forever(0.01)


if __name__ == "__main__":
    main(sys.argv[1:])
