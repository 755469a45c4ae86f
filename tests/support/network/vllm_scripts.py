"""Scripts that stand in the place of vLLM's server, and what of processes their tests look at."""

import time
from collections.abc import Callable
from pathlib import Path

import psutil

SERVES = """
import socketserver, sys
class Healthy(socketserver.StreamRequestHandler):
    def handle(self):
        if self.rfile.readline():
            self.wfile.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: 0\\r\\n\\r\\n")
with socketserver.UnixStreamServer(sys.argv[sys.argv.index("--uds") + 1], Healthy) as server:
    server.serve_forever(0.01)
"""
# Gives every token the log-probability -1; a file beside the script makes it say less.
JUDGES = """
import json, socketserver, sys
class Judge(socketserver.StreamRequestHandler):
    def handle(self):
        length = 0
        path = self.rfile.readline().split()[1].decode()
        while (line := self.rfile.readline().strip()):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        body = json.loads(self.rfile.read(length) or b"{}")
        answer = {"data": [{"id": "teacher"}]}
        if "prompt" in body:
            k = body["prompt_logprobs"]
            def entry(token):
                others = {str(i): {"logprob": -2.0, "rank": i + 2} for i in range(k)}
                return others | {str(token): {"logprob": -1.0, "rank": 1}}
            answer = {"choices": [
                {"index": i, "prompt_logprobs": [None, *map(entry, ids[1:])]}
                for i, ids in enumerate(body["prompt"])]}
        content = json.dumps(answer).encode()
        head = b"HTTP/1.1 200 OK\\r\\nconnection: close\\r\\ncontent-length: %d\\r\\n\\r\\n"
        self.wfile.write(head % len(content) + content)
class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
with Server(sys.argv[sys.argv.index("--uds") + 1], Judge) as server:
    server.serve_forever(0.01)
"""
Python = Callable[[str], Path]


def gone(pid: int, within: float = 10) -> bool:
    until = time.monotonic() + within
    while time.monotonic() < until:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def child_of(pid: int) -> int:
    return int(psutil.Process(pid).children()[0].pid)
