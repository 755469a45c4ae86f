"""A host whose clock is wrong, by Debian's libfaketime."""

import re
from pathlib import Path

from tests.support.hosts.network import lacking

# libfaketime fails the call by which Python sleeps (clock_nanosleep until a time of the monotonic
# clock, which it leaves alone) with EINVAL; Python's other ways to wait are not concerned.
SLEEP = """import select, time
time.sleep = lambda seconds: select.select([], [], [], seconds) and None
"""


def wrong_clock(folder: Path, offset: str, word: str = "namespaces") -> dict[str, str]:
    """The environment of processes whose clock is off by as much: `+1h`, `-1h`. PYTHONPATH is to
    have `folder` in front. Skips the test where there is no libfaketime, or fails it where
    OPD_NEEDED has the word."""
    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    lacking(word, "" if libraries else "there is no libfaketime on this machine")
    _sweep()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(SLEEP)
    return {
        "LD_PRELOAD": str(libraries[-1]),
        "FAKETIME": offset,
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def _sweep() -> None:
    """Removes what libfaketime shares between processes, of such that were killed: whoever gets the
    process id of one again would not start."""
    for path in Path("/dev/shm").glob("*faketime_*"):
        pid = re.fullmatch(r"(?:sem\.)?faketime_(?:sem|shm)_(\d+)", path.name)
        if pid and not Path(f"/proc/{pid[1]}").exists():
            path.unlink(missing_ok=True)
