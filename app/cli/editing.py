"""`opd rename`, `opd tag`, `opd delete`."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.inspect_runs import Json, Run
from app.cli.output import json_line, json_list, plain, result
from app.cli.workspace import Workspace
from opd.errors import ErrorKind, UserError

if TYPE_CHECKING:
    from sqlalchemy import Engine

FIELDS = ("id", "name", "notes", "tags", "version")


def rename(
    workspace: Workspace,
    run: Run,
    name: Annotated[str, typer.Argument(metavar="NAME", help="New name.", show_default=False)],
    json: Json = False,
) -> None:
    """Give a run another name."""
    edited = _edited(workspace, run, name=name)
    _tell(edited, edited["name"], json)


def tag(
    workspace: Workspace,
    run: Run,
    tags: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TAG]...", help="Tags to add.", show_default=False),
    ] = None,
    remove: Annotated[
        list[str] | None,
        typer.Option("--remove", metavar="TAG", help="Remove a tag; repeatable."),
    ] = None,
    json: Json = False,
) -> None:
    """Add tags to a run and remove tags from it; the others stay. Prints the run's tags."""
    edited = _edited(workspace, run, add_tags=tags or [], remove_tags=remove or [])
    _tell(edited, ", ".join(edited["tags"]) or "no tags", json)


def delete(
    workspace: Workspace,
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Run ids.", show_default=False)
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Bring deleted runs back.")] = False,
    json: Json = False,
) -> None:
    """Delete runs that are not running. --undo brings them back, until opd purge removes them."""
    from storage.queue.run_details import delete_run, restore_run

    engine = workspace.engine()
    names = list(dict.fromkeys(runs))
    if not undo:
        listed = _deletable(workspace, engine, names)
        if not yes:
            lines = [f"{run['id']}  {plain(run['name'])}  {run['status']}" for run in listed]
            confirm("opd delete", lines, "Delete")
    for name in names:
        (restore_run if undo else delete_run)(engine, name)
    if json:
        json_list([{"id": name} for name in names])
        return
    for name in names:
        result(f"{name} {'restored' if undo else 'deleted'}")


def _deletable(workspace: Workspace, engine: "Engine", names: list[str]) -> list[dict[str, Any]]:
    """The runs, of which none is running; nothing is deleted where one of them cannot be."""
    from storage.read.runs import read_run

    if any(read_run(engine, name)["status"] == "running" for name in names):
        from app.worker.owners.standing import Judge
        from app.worker.recovery import bury_dead

        bury_dead(engine, workspace.data_dir, Judge(workspace.data_dir))
    runs = [read_run(engine, name) for name in names]
    for run in runs:
        if run["status"] == "running":
            raise UserError(
                f"is running: stop it first (opd cancel {run['id']})",
                where=run["id"],
                kind=ErrorKind.RUNNING,
            )
    return runs


def confirm(command: str, lines: Sequence[str], act: str, how: str = "") -> None:
    """Lists runs, a line for each, and asks whether to do this to them. Raises UserError where
    there is no terminal."""
    if not _at_a_terminal():
        raise UserError("nobody is there to confirm: give --yes", where=command)
    for line in lines:
        typer.echo(line, err=True)
    count = "this run" if len(lines) == 1 else f"these {len(lines)} runs"
    typer.confirm(f"{act} {count} {how}".rstrip() + "?", abort=True, err=True)


def _at_a_terminal() -> bool:
    return sys.stdin.isatty()


def _edited(workspace: Workspace, run: str, **changes: Any) -> dict[str, Any]:
    """What the run's editable fields are after these changes."""
    from storage.queue.run_details import RunEdit, edit
    from storage.read.runs import read_run

    engine = workspace.engine()
    edit(engine, run, RunEdit(**changes))
    stored = read_run(engine, run)
    return {name: stored[name] for name in FIELDS}


def _tell(edited: dict[str, Any], text: str, json: bool) -> None:
    if json:
        json_line(edited)
    else:
        result(f"{edited['id']}  {plain(text)}")
