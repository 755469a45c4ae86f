"""`opd recipes`, `opd runs`, `opd show`, `opd log`."""

from dataclasses import replace
from io import BytesIO
from json import dumps
from time import sleep
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.output import ago, json_line, json_list, plain, result, say, table
from app.cli.workspace import Workspace

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from app.worker.run_files.seam import GrowingFile
    from storage.run_table.table import TableQuery

Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON to standard output.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="Run id.", show_default=False)]
PAGE = 5000
NOBODY = {None, ""}
FOLLOW_EVERY = 0.5  # seconds


def recipes(workspace: Workspace, json: Json = False) -> None:
    """List the bundled recipes."""
    from opd.config.recipes import recipes as all_recipes

    listed = all_recipes()
    if json:
        json_list(
            [{"name": r.name, "title": r.title, "description": r.description} for r in listed]
        )
    else:
        table(
            ("recipe", "title", "description"), ((r.name, r.title, r.description) for r in listed)
        )


def runs(
    workspace: Workspace,
    json: Json = False,
    status: Annotated[str, typer.Option(help="Only runs with this status.")] = "",
    limit: Annotated[
        int, typer.Option(min=1, max=100_000, help="Maximum number of runs to list.")
    ] = 1000,
    columns: Annotated[
        str,
        typer.Option(
            help="Metrics (loss, loss:best, eval/SUITE/pass@1) and settings "
            "(optimizer.learning_rate), separated by commas."
        ),
    ] = "",
    sort: Annotated[
        str, typer.Option(help="Order by this column; runs without a value come last.")
    ] = "",
    descending: Annotated[bool, typer.Option("--desc", help="The largest first.")] = False,
) -> None:
    """List the runs, newest first."""
    from storage.run_table.table import TableQuery, read_table

    engine = workspace.engine()
    query = TableQuery(
        status=status,
        columns=[name.strip() for name in columns.split(",") if name.strip()],
        sort=sort,
        order="desc" if descending else "asc",
    )
    items: list[dict[str, Any]] = []
    while True:
        size = min(PAGE, limit - len(items))
        page = read_table(engine, replace(query, limit=size, offset=len(items)))
        items += page["items"]
        if not page["items"] or len(items) >= min(page["total"], limit):
            break
    chosen = page["columns"]
    stored = len(items)
    items = _as_seen(workspace, engine, query, items)[:limit]
    waits = _waits(workspace, engine, items)
    if json:
        waiting = [item | {"waits_because": waits.get(item["id"])} for item in items]
        json_list(waiting, page["total"] + len(items) - stored)
    elif chosen:
        names = ("run", "name", *(column["id"] for column in chosen))
        rows = ((i["id"], i["name"], *map(_cell, i["columns"].values())) for i in items)
        numbers = [column["id"] for column in chosen if _is_number(items, column["id"])]
        table(names, rows, right=",".join(numbers))
    else:
        names = ("run", "name", "status", "step", "KL", "score", "started")
        more = [one for one in ("started_by", "host") if len({i[one] for i in items} - NOBODY) > 1]
        lines = [(*_row(item), *(item[one] or "" for one in more)) for item in items]
        table((*names, *(one.replace("_", " ") for one in more)), lines, right="step,KL,score")
    for run, reason in ({} if json else waits).items():
        say(f"{run} waits for: {plain(reason)}")


def _waits(workspace: Workspace, engine: "Engine", items: list[dict[str, Any]]) -> dict[str, str]:
    """What the queued ones wait for."""
    if not any(item["status"] == "queued" for item in items):
        return {}
    from app.worker.devices.waiting import why_queued
    from app.worker.watchdog import why_nothing_starts

    return why_queued(engine, items, why_nothing_starts(workspace.data_dir))


def _as_seen(
    workspace: Workspace, engine: "Engine", query: "TableQuery", items: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The rows of the table; none as running whose process is gone."""
    if not query.status and not any(_live(item) for item in items):
        return items
    from app.worker.owners.as_seen import as_seen, with_status
    from storage.run_table.table import read_table

    if not query.status:
        return as_seen(engine, workspace.data_dir, items)

    def stored(status: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = read_table(engine, replace(query, status=status))["items"]
        return rows

    shown = with_status(engine, workspace.data_dir, stored, query.status, items)
    return shown if query.sort else sorted(shown, key=lambda run: -run["created_at"])


def _is_number(items: list[dict[str, Any]], name: str) -> bool:
    return any(isinstance(item["columns"][name], int | float) for item in items)


def _cell(value: Any) -> Any:
    """Four digits of a number, so that a learning rate of 1e-5 is none of 0.000."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def _row(run: dict[str, Any]) -> tuple[Any, ...]:
    step = f"{run['step']}/{run['steps']}"
    began = ago(run["started_at"])
    return run["id"], run["name"], run["status"], step, run["kl"], run["score"], began


def show(workspace: Workspace, run: Run, json: Json = False) -> None:
    """Show one run: status, configuration, models and checkpoints."""
    from storage.read.runs import read_run

    engine = workspace.engine()
    stored = seen(workspace, engine, read_run(engine, run))
    stored["waits_because"] = _waits(workspace, engine, [stored]).get(run)
    if json:
        json_line(stored)
        return
    for label, value in _facts(stored):
        result(f"{label:<12}{plain(value)}")
    result("")
    result(_configuration(stored["config"]))


def seen(workspace: Workspace, engine: "Engine", run: dict[str, Any]) -> dict[str, Any]:
    """The run; not as running where its process is gone."""
    if not _live(run):
        return run
    from app.worker.owners.as_seen import as_seen

    return as_seen(engine, workspace.data_dir, [run])[0]


def log(
    workspace: Workspace,
    run: Run,
    follow: Annotated[
        bool, typer.Option("--follow", help="Print new lines until the run has ended.")
    ] = False,
) -> None:
    """Print the log of a run, of all of its attempts."""
    from app.worker.launchers.output import log_elsewhere, log_of
    from opd.errors import ErrorKind, UserError
    from storage.read.runs import read_run

    engine = workspace.engine()
    now = seen(workspace, engine, read_run(engine, run))
    file = log_of(workspace.data_dir, now)
    if file is None and not (follow and _live(now)):
        host = log_elsewhere(now)
        text = f"has its log on {host}, which cannot be read from here" if host else "has no log"
        raise UserError(text, where=run, kind=ErrorKind.NOT_FOUND)
    read = 0
    while True:
        more = follow and _live(now)
        read = _print_lines(file, read, whole=more)
        if not more:
            return
        sleep(FOLLOW_EVERY)
        now = seen(workspace, engine, read_run(engine, run))
        file = log_of(workspace.data_dir, now)


def _live(run: dict[str, Any]) -> bool:
    return run["status"] in ("queued", "running")


def _print_lines(file: "GrowingFile | None", start: int, *, whole: bool) -> int:
    """Prints the log from a byte on, with `whole` only lines that have ended; → where it ends."""
    if file is None or file.size <= start:
        return start
    for line in BytesIO(file.read(start, file.size - start)):
        if whole and not line.endswith(b"\n"):
            break
        result(plain(line.decode("utf-8", "replace").rstrip("\n")))
        start += len(line)
    return start


def _facts(run: dict[str, Any]) -> list[tuple[str, Any]]:
    facts = [
        ("run", f"{run['id']}  {run['name']}"),
        ("status", f"{run['status']}  {run['phase'] or ''}".strip()),
        ("waits for", run["waits_because"]),
        ("started by", run["started_by"]),
        ("resumed by", run["resumed_by"]),
        ("stopped by", run["cancel_by"]),
        ("runs on" if run["status"] == "running" else "ran on", _where(run)),
        ("step", f"{run['step']} of {run['steps']}"),
        ("ended by", run["end_reason"]),
        ("KL", run["kl"]),
        ("score", f"{plain(run['score_start'])} → {plain(run['score'])}"),
    ]
    facts += [("scored", _counted(count)) for count in run["evaluation_prompts"] or []]
    facts.append(("trained", run["trained"]))
    if run["error_text"]:
        facts.append(("cause", f"{run['error_kind']}: {run['error_text']}"))
        facts.append(("to do", run["hint"]))
    facts += [(name, folder) for name, folder in (run["resolved"] or {}).items()]
    facts += [("checkpoint", f"step {c['step']}  {c['path']}") for c in run["checkpoints"]]
    return [(label, value) for label, value in facts if value]


def _where(run: dict[str, Any]) -> str:
    """Host, devices and cluster job; "" before it has run."""
    if not run["host"]:
        return ""
    devices = (run["status"] == "running" and run["slot"]) or run["loaded_device"]
    return ", ".join(part for part in (run["host"], devices, run["cluster_job"]) if part)


def _counted(count: dict[str, Any]) -> str:
    """Empty for an evaluation that has all prompts that were asked for."""
    from opd.types import EvaluationCount, MissingPrompts

    missing = [MissingPrompts(**one) for one in count["missing"]]
    return str(EvaluationCount(**{**count, "missing": missing})) if missing else ""


def _configuration(config: dict[str, Any]) -> str:
    from opd.config.run import parse, to_yaml

    return "\n".join(plain(line) for line in to_yaml(parse(config)).splitlines())
