"""The wheel holds the whole product and nothing else, and works outside the checkout."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from http.cookiejar import CookieJar
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("app", "opd", "opd_launcher.py", "storage")
SMALL = ("steps=1", "sampling.prompts_per_step=2", "evaluation.prompts=2", "prompts.probe=0")


def tracked(*folders: str) -> list[str]:
    command = ["git", "ls-files", "-z", *folders]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in names.split("\0") if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the tracked files, so that nothing left over from an earlier build gets in."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in tracked(*PACKAGES, "pyproject.toml", "README.md", "LICENSE"):
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / "source" / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*command, str(folder / "source")], check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def bin_folder(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands of a fresh environment lie, which sees our dependencies, not us.

    A path of site-packages in a .pth file does not have its own .pth files read, such as that of
    an editable installation.
    """
    environment = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    (site_packages,) = environment.glob("lib/python*/site-packages")
    dependencies = [path for path in sys.path if Path(path).name.endswith("-packages")]
    (site_packages / "dependencies.pth").write_text("\n".join(dependencies), encoding="utf-8")
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
    return python.parent


@pytest.fixture
def outside(bin_folder: Path, tmp_path: Path) -> Callable[..., str]:
    """Runs a command of that environment in an empty folder; what it prints."""

    def run(command: str, *arguments: str) -> str:
        done = subprocess.run(
            [str(bin_folder / command), *arguments],
            cwd=tmp_path,
            env=environment(tmp_path),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=600,
        )
        return done.stdout

    return run


def environment(folder: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**inherited, "OPD_DATA_DIR": str(folder / "data")}


@pytest.fixture
def served(bin_folder: Path, tmp_path: Path) -> Iterator[str]:
    """The link that `opd serve` prints there, once its port accepts."""
    command = [str(bin_folder / "opd"), "serve", "--port", "0"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        link = process.stdout.readline().strip()
        end = time.monotonic() + 300
        while not accepts(link) and process.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        yield link
        process.terminate()


def accepts(link: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", urlsplit(link).port)) == 0


def test_every_tracked_file_is_in_it_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == set(tracked(*PACKAGES))
    assert len(names) > 300


def test_a_run_and_its_report_work_from_it(outside: Callable[..., str], tmp_path: Path) -> None:
    assert (
        outside("python", "-c", "from opd import errors; print(errors.__file__)").count(
            "site-packages"
        )
        == 1
    )
    settings = [part for setting in SMALL for part in ("--set", setting)]
    result = json.loads(outside("opd", "train", "demo", "--json", *settings).splitlines()[-1])
    assert (result["status"], result["steps"]) == ("finished", 1)
    outside("opd", "report", result["run_id"], "--out", "run.html")
    assert (tmp_path / "run.html").stat().st_size > 100_000


def test_its_server_has_the_first_page_with_scripts_and_styles(served: str) -> None:
    address, _, _ = served.partition("/?token=")
    open_url = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar())).open
    page = open_url(served, timeout=300).read().decode()
    linked = set(re.findall(r"static/e-\w+/(?:lib|css)/[\w-]+\.(?:js|css)", page))
    (folder,) = {"/".join(path.split("/")[:2]) for path in linked}
    assert len(linked) > 10 and f"{folder}/lib/main.js" in linked
    for name in tracked("app/static"):
        path = f"{folder}/{name.removeprefix('app/static/')}"
        assert open_url(f"{address}/{path}", timeout=300).read() == (ROOT / name).read_bytes()
        linked.discard(path)
    assert linked == set()
