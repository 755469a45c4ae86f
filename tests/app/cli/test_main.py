"""What shell and system may have left open or closed around the command."""

import getpass
import json
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from app.cli import main
from tests.support.fake_training import ROOT
from tests.support.studio import Studio

OPD = f"{sys.executable} -m app.cli.main"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With one queued run, whose name holds letters that ASCII has not."""
    studio = Studio(tmp_path_factory.mktemp("data"))
    studio.queue("ü ± 漢")
    studio.close()
    return studio.data_dir


def shell(
    data_dir: Path, line: str, **environment: str | None
) -> "subprocess.CompletedProcess[str]":
    """The line run by bash, where `opd` stands for the command on that data directory."""
    kept = os.environ | {"OPD_DATA_DIR": str(data_dir), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        ["bash", "-c", f'opd() {{ {OPD} "$@"; }}\n{line}'],
        env={n: v for n, v in (kept | environment).items() if v is not None},
        cwd=data_dir,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def test_a_closed_stream_gets_nothing_and_stops_nothing(data_dir: Path) -> None:
    before = (data_dir / "studio.db").read_bytes()[:16]
    ended = shell(data_dir, "opd runs --json >&-; echo $?")
    assert (ended.stdout, ended.stderr) == ("0\n", "")
    refused = shell(data_dir, "opd show run-x <&- >&- 2>&-; echo $?")
    assert (refused.stdout, refused.stderr) == ("2\n", "")
    assert (data_dir / "studio.db").read_bytes()[:16] == before


def test_an_output_that_cannot_be_written_is_one_line_and_exit_code_1(data_dir: Path) -> None:
    ended = shell(data_dir, "opd runs >/dev/full; echo $?; opd --help >/dev/full; echo $?")
    assert ended.stdout == "1\n1\n"
    lines = ended.stderr.splitlines()
    assert lines[0] == "Error: standard output: No space left on device"
    assert len(lines) == 2 and "No space left on device" in lines[1]
    assert shell(data_dir, "opd show run-x 2>/dev/full; echo $?").stdout == "2\n"


@pytest.mark.parametrize("arguments", ["runs --json", "--help"])
def test_a_reader_that_has_left_is_no_error(data_dir: Path, arguments: str) -> None:
    ended = shell(data_dir, f"opd {arguments} | true; echo ${{PIPESTATUS[0]}}")
    assert (ended.stdout, ended.stderr) == ("0\n", "")


def test_a_locale_of_ascii_loses_no_letter(data_dir: Path) -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert "ü ± 漢" in shell(data_dir, "opd runs", **ascii_only).stdout
    environment = ascii_only | {"PYTHONIOENCODING": "ascii"}
    assert r"\xfc \xb1 \u6f22" in shell(data_dir, "opd runs", **environment).stdout
    [run] = json.loads(shell(data_dir, "opd runs --json", **environment).stdout)["items"]
    assert run["name"] == "ü ± 漢"


def test_a_user_without_entry_and_home(
    opd: Callable[..., tuple[int, str, str]], data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_entry(key: object) -> None:
        raise KeyError(key)

    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "OPD_DATA_DIR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    code, out, err = opd("runs")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("Error: --data-dir: ~/.opd-studio cannot be found: HOME is not set")
    code, out, err = opd("runs", "--json", "--data-dir", str(data_dir))
    assert (code, json.loads(out)["total"], err) == (0, 1, "")
    assert getpass.getuser() == f"uid-{os.getuid()}"
    assert os.path.expanduser("~/.cache") == f"{data_dir}/.cache"


def test_a_user_is_known_by_the_systems_entry_without_variables(
    opd: Callable[..., tuple[int, str, str]], data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a service or a container, where nothing has logged in."""
    for name in ("USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    assert opd("runs", "--data-dir", str(data_dir))[0] == 0
    assert getpass.getuser() == pwd.getpwuid(os.getuid()).pw_name and "USER" not in os.environ


@pytest.mark.parametrize("after", [0.05, 0.12])
def test_an_early_interrupt_is_one_word(data_dir: Path, after: float) -> None:
    """While our modules are imported, and while the database is opened."""
    program = "import app.cli.main as m, sys; print('.', flush=True)"
    program += "; sys.argv = ['opd', 'runs', '--json']"
    started = subprocess.Popen(
        [sys.executable, "-c", f"{program}; m.app()"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | {"OPD_DATA_DIR": str(data_dir)},
        text=True,
    )
    assert started.stdout is not None
    started.stdout.readline()
    time.sleep(after)
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=60)
    assert (started.returncode, err) in [(130, "Error: stopped\n"), (0, "")]


def test_the_limit_of_open_files_is_raised_to_what_is_allowed(data_dir: Path) -> None:
    program = "import app.cli.main as m, resource as r; m._raise_file_limit(); "
    program += "print(*r.getrlimit(r.RLIMIT_NOFILE))"
    line = f"ulimit -S -n 100; ulimit -H -n 2000; cd {ROOT}; {sys.executable} -c '{program}'"
    assert shell(data_dir, line).stdout == "2000 2000\n"
    assert main.FILES <= 10_240
