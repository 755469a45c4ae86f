"""Runs a server for as long as the job that it is for lives, and no longer.

    python app/worker/engines/guard.py JOB_PID FOLDER -- COMMAND…

The server leads a session. All of it ends, and FOLDER with it, when the job has gone, whichever
way; when the server ends by itself; and when this process is asked to. Standard library only.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from types import FrameType

LOOK_EVERY = 0.2
GRACE = 3.0  # seconds in which the server may end by itself
SIGNALLED = 128  # added to the number of the signal that ended the server, as shells do


def main(arguments: list[str]) -> int:
    job, folder, command = int(arguments[0]), arguments[1], arguments[3:]
    signals: list[int] = []

    def ask(number: int, _: FrameType | None) -> None:
        signals.append(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, ask)
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    while server.poll() is None and os.getppid() == job and not signals:
        time.sleep(LOOK_EVERY)
    code = server.poll()
    end(server)
    shutil.rmtree(folder, ignore_errors=True)
    if code is None:
        return 0
    return SIGNALLED - code if code < 0 else code


def end(server: subprocess.Popen[bytes]) -> None:
    """Ends the server's whole session."""
    server.terminate()
    with suppress(subprocess.TimeoutExpired):
        server.wait(GRACE)
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
