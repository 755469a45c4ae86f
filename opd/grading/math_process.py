"""math-verify in a process of its own, which is ended when an answer takes too long.

What a model writes can keep sympy busy for hours (9^{9^{9^9}} is enough), and math-verify's own
time limits are signals, which work in a main thread alone and do not reach into long integers.
This file is also the program of that process; it imports nothing of ours.
"""

import atexit
import json
import logging
import queue
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import lru_cache
from threading import Lock, Thread
from typing import IO, Any

MAX_TEXT = 2_000  # characters; math-verify's patterns take a time that grows with its square
SECONDS = 2  # of math-verify, to parse and to compare
DEADLINE = 8.0  # seconds for an answer; then the process is ended
START = 120.0  # seconds to import sympy
MEMORY = 4 << 30  # bytes


@lru_cache(maxsize=4096)
def judge(completion: str, answer: str | None) -> bool:
    """Whether the end of a completion states the answer; without an answer, whether it is read.

    False where math-verify does not come to an end in time. Raises RuntimeError where it does not
    start.
    """
    return _process.ask(completion[-MAX_TEXT:], answer)


def as_latex(answer: str) -> str:
    """The answer in dollars, where it does not mark its mathematics itself."""
    return answer if "$" in answer or "\\boxed" in answer else f"${answer}$"


class _Process:
    """Started when first asked, and again after it was ended. For many threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._child: subprocess.Popen[str] | None = None
        self._replies: queue.SimpleQueue[str] = queue.SimpleQueue()

    def ask(self, text: str, answer: str | None) -> bool:
        with self._lock:
            child = self._child or self._start()
            try:
                assert child.stdin is not None
                child.stdin.write(json.dumps([text, answer]) + "\n")
                child.stdin.flush()
                reply = self._replies.get(timeout=DEADLINE)
            except (BrokenPipeError, queue.Empty):
                reply = ""
            if not reply:
                self.end()
            return reply == "true\n"

    def end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            with suppress(BrokenPipeError), child:  # of a question that it never read
                pass

    def _start(self) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        # -P: what lies beside this file is not to be imported in place of the standard library
        command = [sys.executable, "-P", __file__]
        child = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, encoding="utf-8"
        )
        self._child, self._replies = child, queue.SimpleQueue()
        Thread(target=_read, args=(child.stdout, self._replies), daemon=True).start()
        try:
            ready = self._replies.get(timeout=START)
        except queue.Empty:
            ready = "it takes too long to start"
        if ready != "ready\n":
            self.end()
            raise RuntimeError(f"math-verify does not start: {ready.strip() or 'it ended'}")
        return child


def _read(lines: IO[str], replies: "queue.SimpleQueue[str]") -> None:
    for line in lines:
        replies.put(line)
    replies.put("")


_process = _Process()
atexit.register(_process.end)


def _main() -> None:
    """Reads [text, answer] a line, writes true or false a line, until its input ends."""
    replies, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no reply
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent closes the input

    def reply(text: str) -> None:
        replies.write(text + "\n")
        replies.flush()

    try:
        from math_verify import parse, verify  # noqa: PLC0415 - in this process alone
    except ImportError as error:
        reply(str(error))
        return
    logging.disable(logging.CRITICAL)
    _limit_memory()
    reply("ready")
    for line in sys.stdin:
        text, answer = json.loads(line)
        _limit_time()
        result: Any = parse(text, parsing_timeout=SECONDS)
        if answer is not None and result:
            result = verify(
                parse(as_latex(answer), parsing_timeout=SECONDS), result, timeout_seconds=SECONDS
            )
        reply("true" if result else "false")


def _limit_memory() -> None:
    if sys.platform == "linux":
        import resource  # noqa: PLC0415 - not on every system

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _limit_time() -> None:
    """Ends this process by itself, should nobody be left to do so."""
    if sys.platform == "linux":
        import resource  # noqa: PLC0415 - not on every system

        allowed = int(time.process_time() + 2 * DEADLINE)
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (allowed, hard))


if __name__ == "__main__":
    _main()
