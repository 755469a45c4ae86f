"""`opd purge`."""

from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.editing import confirm
from app.cli.inspect_runs import Json
from app.cli.output import json_list, plain, result, say
from app.cli.workspace import Workspace
from opd.errors import ErrorKind, UserError

if TYPE_CHECKING:
    from sqlalchemy import Engine


def purge(
    workspace: Workspace,
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN]...", help="Ids of deleted runs; without any, all.", show_default=False
        ),
    ] = None,
    days: Annotated[
        float, typer.Option(min=0, help="Only runs that were deleted this many days ago.")
    ] = 0,
    shrink: Annotated[
        bool,
        typer.Option("--shrink", help="Also give the database's free room back to the disk."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Remove deleted runs for good, with records, logs and checkpoints.

    Other runs go on meanwhile. --shrink is refused while one is running: others wait for it.
    """
    from app.worker.run_files.choice import run_files
    from storage.write.purge import deleted_runs, purge_records, purge_run

    if runs and days:
        raise UserError("chooses among all deleted runs: give it or RUN", where="--days")
    engine = workspace.engine()
    files = run_files(workspace.data_dir)
    deleted = deleted_runs(engine, runs or [], days=days)
    if shrink:
        _check_quiet(engine)
    if deleted and not yes:
        lines = [f"{run.id}  {plain(run.name)}  {run.bytes / 1e6:.1f} MB" for run in deleted]
        confirm("opd purge", lines, "Remove", "for good")
    for run in deleted:
        purge_records(engine, run.id)
        files.remove(run.id)
        purge_run(engine, run.id)
        if not json:
            result(f"{run.id} purged")
    if deleted or shrink:
        _reclaim(engine, shrink)
    if json:
        json_list([{"id": run.id, "bytes": run.bytes} for run in deleted])
    elif deleted:
        say(f"{sum(run.bytes for run in deleted) / 1e6:.1f} MB of records removed")
    else:
        say("No deleted runs to remove.")


def _check_quiet(engine: "Engine") -> None:
    from storage.queue.jobs import running

    if names := [run["id"] for run in running(engine)]:
        raise UserError(
            f"{len(names)} runs are running ({names[0]}, …) and would wait: purge without it",
            where="--shrink",
            kind=ErrorKind.RUNNING,
        )


def _reclaim(engine: "Engine", shrink: bool) -> None:
    from storage.engine import reclaim, size

    before = size(engine)
    reclaim(engine, shrink=shrink)
    if shrink:
        say(f"The database took {before / 1e6:.1f} MB, and takes {size(engine) / 1e6:.1f} MB.")
