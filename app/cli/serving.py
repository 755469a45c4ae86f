"""`opd serve` and `opd demo`: the dashboard with its supervisor."""

import os
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from app.cli.output import plain, result
from app.cli.server import flags
from app.cli.server.claim import noted, served_alone
from app.cli.server.cluster import set_launcher
from app.cli.server.ports import bind
from app.cli.workspace import Workspace
from opd.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Engine

    from app.server import ServerOptions
    from app.sources.roots import SourceOptions
    from storage.data_dir import DataDir

DEFAULT_PORT = 7860
MCP_PATH = "gradio_api/mcp/"
DEMO_PORTS = 50  # tried one after the other where none is asked for


@dataclass(frozen=True)
class Listening:
    """How the server is reached; the socket is bound, and accepts once the server is ready."""

    socket: socket.socket
    host: str
    token: str | None
    view_token: str | None = None
    named_tokens: "Mapping[str, str]" = field(default_factory=dict)
    allow_hosts: tuple[str, ...] = ()
    root_path: str = ""
    mcp: bool = False
    allow_frames: tuple[str, ...] = ()
    sources: "SourceOptions | None" = None

    @property
    def port(self) -> int:
        return int(self.socket.getsockname()[1])

    def link(self, page: str = "", token: str | None = None) -> str:
        """An address that opens in a browser on this machine, with the token or that without a
        name."""
        name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        name = f"[{name}]" if ":" in name and not name.startswith("[") else name
        joint = "&" if "?" in page else "?"
        return f"http://{name}:{self.port}/{page}{joint}token={token or self.token}"

    def bare(self, page: str = "") -> str:
        """The same address without the token."""
        return self.link(page).partition("?")[0]

    def options(self, data_dir: "DataDir") -> "ServerOptions":
        from app.server import ServerOptions
        from app.sources.roots import NO_ROOTS

        return ServerOptions(
            data_dir=data_dir,
            host=self.host,
            port=self.port,
            token=self.token,
            view_token=self.view_token,
            named_tokens=self.named_tokens,
            allow_hosts=self.allow_hosts,
            root_path=self.root_path,
            mcp=self.mcp,
            allow_frames=self.allow_frames,
            sources=self.sources or NO_ROOTS,
        )


def serve(
    workspace: Workspace,
    host: flags.Host = "127.0.0.1",
    port: flags.Port = DEFAULT_PORT,
    token: flags.Token = None,
    view_token: flags.ViewToken = None,
    allow_host: flags.AllowHost = None,
    root_path: flags.RootPath = "",
    allow_frame: flags.AllowFrame = None,
    model_root: flags.ModelRoot = None,
    data_root: flags.DataRoot = None,
    upload_limit: flags.UploadLimit = 200,
    webhook: flags.Webhook = None,
    standby: flags.StandbyKept = True,
    launcher: flags.LauncherName = "",
    mcp: flags.Mcp = False,
) -> None:
    """Serve the dashboard and run queued jobs."""
    if mcp:
        _check_mcp()
    sources = _sources(model_root or [], data_root or [], upload_limit)
    _set_webhook(webhook)
    _set_standby(standby)
    workspace.check_files()
    with bind(host, port) as bound, served_alone(workspace.prepared()):
        secret, named = _tokens(workspace, token or ())
        listening = Listening(
            *(bound, host, secret, view_token, named, tuple(allow_host or ()), root_path),
            mcp=mcp,
            allow_frames=tuple(allow_frame or ()),
            sources=sources,
        )
        set_launcher(workspace, launcher)
        if allow_host or allow_frame or root_path or named:
            _check_options(listening.options(workspace.data_dir))
        engine = workspace.engine()
        _announce(listening)
        workspace.warn()
        workspace.warn_of_clock(engine)
        _serve(workspace, engine, listening)


def demo(
    workspace: Workspace,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Port to listen on; default: the first free one from 7860."
        ),
    ] = None,
) -> None:
    """Serve the dashboard and start a demo run of the bundled pair."""
    from app.worker.owners.person import command_user
    from app.worker.webhook.notification import check_setting
    from opd.config.recipes import recipe
    from opd.config.run import parse
    from storage.queue import jobs

    check_setting()
    workspace.check_files()
    set_launcher(workspace, "")
    host = "127.0.0.1"
    free = _first_free(host) if port is None else bind(host, port)
    with free as bound, served_alone(workspace.prepared()):
        secret, _ = _tokens(workspace, ())
        listening = Listening(bound, host, secret)
        engine = workspace.engine()
        config = parse(recipe("demo").config)
        run_id = jobs.create_run(engine, config, recipe="demo", started_by=command_user())
        result(f"run {run_id} starts; open {listening.link(f'run?id={run_id}')}")
        workspace.warn()
        _serve(workspace, engine, listening)


def _set_webhook(url: str | None) -> None:
    """Where the supervisor and its jobs find it; it never becomes part of a configuration."""
    from app.worker.webhook.notification import VARIABLE, checked_url

    if url:
        os.environ[VARIABLE] = checked_url(url)


def _sources(model_roots: list[str], data_roots: list[str], megabytes: int) -> "SourceOptions":
    """Raises UserError for a root that cannot be listed."""
    from app.sources.roots import SourceOptions, checked_roots

    return SourceOptions(
        checked_roots(model_roots, "--model-root"),
        checked_roots(data_roots, "--data-root"),
        megabytes * 1_000_000,
    )


def _announce(listening: Listening) -> None:
    """The addresses at which it will answer, for whom."""
    if listening.token:
        result(listening.link())
    for name, token in listening.named_tokens.items():
        result(f"{name}: {listening.link(token=token)}")
    if listening.view_token:
        result(f"view only: {listening.link(token=listening.view_token)}")
    if listening.mcp:
        result(f"MCP: {listening.bare(MCP_PATH)} (token as bearer header)")


def _check_options(options: "ServerOptions") -> None:
    """Raises UserError before the link is printed; without such options there is nothing to."""
    from app.server import policy

    policy(options)


def _check_mcp() -> None:
    """Raises UserError unless the packages of the extra are there."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        installed = version("mcp")
    except PackageNotFoundError:
        raise UserError("needs mcp: pip install 'opd-studio[mcp]'", where="--mcp") from None
    if installed.partition(".")[0] != "1":
        text = f"needs mcp 1.x (found {installed}): pip install 'opd-studio[mcp]'"
        raise UserError(text, where="--mcp")


def _set_standby(kept: bool) -> None:
    """Where the supervisor finds it."""
    from app.worker.standby import VARIABLE

    os.environ[VARIABLE] = str(int(kept))


def _first_free(host: str) -> socket.socket:
    for port in range(DEFAULT_PORT, DEFAULT_PORT + DEMO_PORTS):
        try:
            bound = bind(host, port)
        except UserError:
            continue
        if port != DEFAULT_PORT:
            result(f"port {DEFAULT_PORT} is in use; using {port}")
        return bound
    return bind(host, DEFAULT_PORT)


def _tokens(workspace: Workspace, given: "Sequence[str]") -> tuple[str | None, dict[str, str]]:
    """The token without a name, and those of persons."""
    from app.access import named_tokens, stored_token

    return named_tokens(given) if given else (stored_token(workspace.data_dir), {})


def _serve(workspace: Workspace, engine: "Engine", listening: Listening) -> None:
    """Serves until a signal ends it. Jobs go on."""
    from app.worker.watchdog import supervised

    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup leaves it
        signal.signal(signal.SIGHUP, _hang_up)
    note = {"port": listening.port, "pid": os.getpid(), "address": listening.bare()}
    try:
        with (
            noted(workspace.data_dir, note),
            supervised(workspace.data_dir, workspace.environment()) as watchdog,
        ):
            options = listening.options(workspace.data_dir)
            _run_server(engine, listening, replace(options, trouble=lambda: watchdog.trouble))
    except KeyboardInterrupt:
        pass
    finally:
        with suppress(OSError):  # the terminal may be gone
            _tell_running(engine)


def _run_server(engine: "Engine", listening: Listening, options: "ServerOptions") -> None:
    import uvicorn

    from app.server import build

    config = uvicorn.Config(
        build(engine, options),
        host=listening.host,
        port=listening.port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    uvicorn.Server(config).run(sockets=[listening.socket])


def _tell_running(engine: "Engine") -> None:
    from storage.queue import jobs

    for run in jobs.running(engine):
        result(
            f"{run['id']} ({plain(run['name'])}) keeps running on {run['slot']}; "
            f"to stop it: opd cancel {run['id']}"
        )


def _hang_up(*_: object) -> None:
    """A closed terminal ends the server as SIGTERM does."""
    signal.raise_signal(signal.SIGTERM)


def _stop(*_: object) -> NoReturn:
    sys.exit(0)
