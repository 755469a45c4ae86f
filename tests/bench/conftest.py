"""Runs a benchmark's command in this process, in its smallest form."""

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import torch

Run = Callable[..., str]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """`bench("decode", "--rows", "8")` returns what `python -m bench.decode --rows 8` prints."""
    threads = torch.get_num_threads()

    def run(name: str, *options: str) -> str:
        monkeypatch.setattr(sys, "argv", [f"bench.{name}", *options])
        code = importlib.import_module(f"bench.{name}").main()
        assert not code
        return capsys.readouterr().out

    yield run
    torch.set_num_threads(threads)


@pytest.fixture
def bench_process() -> Run:
    """The same in a process of its own, for what starts a browser or forks."""

    def run(name: str, *options: str) -> str:
        command = [sys.executable, "-m", f"bench.{name}", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
