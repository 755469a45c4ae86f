"""How the suite is shared out between workers, and what tests share: databases, the command line,
one Chromium and one server a session, a clean page a test."""

import asyncio
import gc
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from bench.support.chromium import CHROMIUM, FLAGS
from tests import warm_starts
from tests.support.databases import matrix

# Read when torch loads. On models as small as the tests', threads mostly wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPD_STANDBY", "0")  # it costs each server of the tests seconds of processor
for _name in [name for name in os.environ if name.lower().endswith("_proxy")]:
    del os.environ[_name]  # tests speak to this machine, and make the proxies that they need
ROOT = Path(__file__).parent.parent
TOKEN = "browser-tests"
START_SECONDS = 300  # a busy machine takes long for everything
PATIENCE = 120_000  # ms, likewise


# Files, by the start of their path, that one worker does in one go, because they share a server or
# take long; in this order, so that no worker is left with a long one at the end. Every other file
# is a piece of its own.
PIECES = (
    ("tests/browser/rollout/", "tests/browser/test_questions.py", "tests/flows/test_journey.py"),
    ("tests/flows/test_resume.py",),
    ("tests/flows/test_planted_faults.py",),
    ("tests/flows/hosts/test_slurm.py",),
    ("tests/flows/hosts/test_ray.py",),
    ("tests/flows/hosts/",),
    (
        "tests/browser/",
        *(f"tests/bench/test_{name}.py" for name in ("screenshots", "first_heatmap", "inspector")),
    ),
    ("tests/app/worker/test_experiments.py",),
    ("tests/app/cli/test_training.py",),
    ("tests/flows/test_demo.py",),
    ("tests/opd/interactive/test_what_if.py",),
    ("tests/app/worker/",),
    ("tests/flows/",),
)


def pytest_configure(config: pytest.Config) -> None:
    """A worker of the whole suite starts many processes; one file's few are not worth it."""
    config.add_cleanup(matrix.end)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # below nohup, jobs would ignore it as well
    if "PYTEST_XDIST_WORKER" in os.environ and sys.platform == "linux":
        config.add_cleanup(warm_starts.install())


def piece(nodeid: str) -> str:
    """The part of the suite that a test belongs to."""
    number = next((n for n, starts in enumerate(PIECES) if nodeid.startswith(starts)), None)
    return nodeid.partition("::")[0] if number is None else f"{number:02}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: min(piece(item.nodeid), "99"))
    left_out = []
    if matrix.ON_POSTGRESQL:
        left_out = [item for item in items if item.get_closest_marker("sqlite_only")]
    chosen = "engines" in config.option.markexpr or any(".py" in name for name in config.args)
    if not chosen:  # `make test-engines` does
        left_out += [item for item in items if item.get_closest_marker("engines")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def pytest_collection_finish() -> None:
    """A model that is let go of is collected with all else in memory: a second for the modules of
    the whole suite, which stay anyway."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling  # noqa: PLC0415 - it need not be installed

    class ByPiece(LoadScopeScheduling):  # type: ignore[misc]  # xdist is not typed
        def _split_scope(self, nodeid: str) -> str:
            return piece(nodeid)

    config.option.loadscopereorder = False
    return ByPiece(config, log)


@pytest.fixture(autouse=True)
def _no_loop_of_the_browser(request: pytest.FixtureRequest) -> Iterator[None]:
    """Playwright keeps an event loop running in the thread of the tests; others need their own."""
    loop = None if request.node.get_closest_marker("browser") else asyncio._get_running_loop()
    if loop is None:
        yield
        return
    asyncio._set_running_loop(None)
    yield
    asyncio._set_running_loop(loop)


@pytest.fixture(scope="session", autouse=True)
def _whole_products() -> Iterator[None]:
    """On a GPU a run rounds products of float32 to TF32; tests compare more closely than that."""
    patch = pytest.MonkeyPatch()
    if os.environ.get("OPD_TEST_DEVICE", "cpu") != "cpu":
        import torch  # noqa: PLC0415 - not needed elsewhere

        patch.setattr(torch, "set_float32_matmul_precision", lambda _: None)
    yield
    patch.undo()


@dataclass(frozen=True)
class Site:
    folder: Path
    address: str
    engine: Engine
    run_id: str  # the newest run, with long and hostile rollouts

    def link(self, path: str) -> str:
        return f"{self.address}{path}"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """An empty database."""
    opened = matrix.new_database(tmp_path)
    yield opened
    opened.dispose()


@pytest.fixture(autouse=matrix.ON_POSTGRESQL)
def _databases() -> Iterator[None]:
    """Those of a test go with it."""
    with matrix.cleared():
        yield


@pytest.fixture
def api(engine: Engine, tmp_path: Path) -> Any:
    """A client of the REST routes over that database."""
    from tests.support.api_client import Api  # noqa: PLC0415 - imports the application

    return Api(engine, tmp_path)


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Any]:
    """That folder as a data directory, with processes around it."""
    from tests.support.studio import Studio  # noqa: PLC0415 - imports what jobs need

    made = Studio(tmp_path)
    yield made
    made.close()


@pytest.fixture
def opd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs a command in this process: exit code, standard output, standard error."""
    from app.cli import main as cli  # noqa: PLC0415

    monkeypatch.setenv("OPD_DATA_DIR", str(tmp_path / "data"))
    for name, value in matrix.environment(tmp_path / "data").items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["opd", *arguments])
        with pytest.raises(SystemExit) as left:
            cli.app()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return run


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A data directory with SmolLM2 converted in it: made once a session, for all workers."""
    from tests.support.gguf_files import converted  # noqa: PLC0415 - loads torch

    base = tmp_path_factory.getbasetemp()
    return converted(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    if not CHROMIUM.exists():
        warnings.filterwarnings("default", message="NO BROWSER TESTS")
        warnings.warn(f"NO BROWSER TESTS: there is no {CHROMIUM}", stacklevel=1)
        pytest.skip(f"NO BROWSER TESTS: there is no {CHROMIUM}; set OPD_CHROMIUM")
    from playwright.sync_api import expect, sync_playwright  # noqa: PLC0415 - not needed elsewhere

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=FLAGS, timeout=PATIENCE
        )
        expect.set_options(timeout=PATIENCE)
        plain = browser.new_context

        def patient(**options: Any) -> Any:
            context = plain(**options)
            context.set_default_timeout(PATIENCE)
            return context

        browser.new_context = patient  # type: ignore[method-assign]
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def site(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    from bench.fill import fill  # noqa: PLC0415 - not needed where there is no browser

    folder = tmp_path_factory.mktemp("site")
    engine = matrix.new_database(folder)
    run_id = fill(engine, runs=4, tokens=24_000, long=(1_000, 10_000))
    with serving(folder) as address:
        yield Site(folder, address, engine, run_id)
    engine.dispose()


@pytest.fixture(scope="session")
def trained_site(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real run of two steps, and made-up ones, with the real server and supervisor."""
    from tests.support.trained_site import serving  # noqa: PLC0415 - loads torch

    with serving(tmp_path_factory.mktemp("trained")) as site:
        yield site


@pytest.fixture(scope="session")
def visitor(chromium: Any, site: Site) -> Iterator[Any]:
    """A browser context that holds the server's cookie; what it has loaded stays in its cache."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    context.request.get(site.link(f"/?token={TOKEN}"))
    yield context
    context.close()


@pytest.fixture
def open_page(visitor: Any, site: Site) -> Iterator[Callable[[str], Any]]:
    """Opens an address of the site; at the end nothing may be on the console or have left it."""
    with opening(visitor, site.address) as visit:
        yield visit


@contextmanager
def opening(context: Any, address: str) -> Iterator[Callable[[str], Any]]:
    """A page of the context that opens paths of the address, watched as `open_page` says."""
    page = context.new_page()
    faults: list[str] = []
    page.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    local = (address, "data:", "blob:")
    page.on("request", lambda r: None if r.url.startswith(local) else faults.append(r.url))

    def visit(path: str) -> Any:
        page.goto(f"{address}{path}")
        if path.startswith("/rollout?"):
            page.wait_for_selector('#token-view[data-ready="true"]')
        return page

    yield visit
    page.evaluate("localStorage.clear()")
    page.close()
    assert faults == []


@contextmanager
def serving(folder: Path, *view_token: str) -> Iterator[str]:
    """The address of a server of that folder, and of no supervisor."""
    with socket.socket() as bound:  # already, or another process may take the port
        bound.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{bound.getsockname()[1]}"
        process = subprocess.Popen(
            [
                sys.executable,
                str(ROOT / "tests" / "support" / "browser_server.py"),
                str(folder),
                str(bound.fileno()),
                *view_token,
            ],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | matrix.environment(folder),
            pass_fds=[bound.fileno()],
        )
    try:
        _wait(f"{address}/api/v1/health", process)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=START_SECONDS)


def _wait(address: str, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    raise RuntimeError("the server for the browser tests did not start")
