"""`opd report`."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.inspect_runs import seen
from app.cli.out.files import aside, check_ending
from app.cli.output import result
from app.cli.workspace import Workspace

ENDINGS = (".html", ".htm")


def report(
    workspace: Workspace,
    name: Annotated[
        str,
        typer.Argument(metavar="RUN|ROLLOUT", help="Id of a run or rollout.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", help="Output path.", show_default=False)],
    rollouts: Annotated[
        int, typer.Option(min=1, max=200, help="Number of rollouts to include, worst first.")
    ] = 20,
) -> None:
    """Write a standalone HTML report. It opens without server or network."""
    check_ending(out, ENDINGS)
    from app.report import report as made_of
    from app.version import program_version

    with aside(out) as path:
        engine = workspace.engine()
        made = made_of(
            *(engine, name),
            rollouts=rollouts,
            version=program_version(),
            seen=lambda run: seen(workspace, engine, run),
        )
        size = path.write_bytes(made.html.encode())
    count = "1 rollout" if made.rollouts == 1 else f"{made.rollouts} rollouts"
    result(f"{count}, {size / 1000:.0f} kB → {out}")
