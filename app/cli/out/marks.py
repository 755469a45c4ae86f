"""`opd marks`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.inspect_runs import Json, Run
from app.cli.out.files import aside, check_ending
from app.cli.output import json_line, say, table
from app.cli.workspace import Workspace

if TYPE_CHECKING:
    from sqlalchemy import Engine

PAGE = 5000


def marks(
    workspace: Workspace,
    run: Run,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            metavar="FILE.jsonl",
            help="Write the prompts of marked rollouts to this file, to train or evaluate on.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """List what people have marked in a run: rollouts and tokens, with their notes."""
    from storage.marks.listing import read_marks

    if prompts is not None:
        check_ending(prompts, (".jsonl",), "--prompts")
    engine = workspace.engine()
    items: list[dict[str, Any]] = []
    while page := read_marks(engine, run, limit=PAGE, offset=len(items))["items"]:
        items += page
    written = _write_prompts(engine, run, prompts) if prompts is not None else {}
    if json:
        json_line({"items": items, "total": len(items), **written})
    elif prompts is None:
        columns = ("rollout", "step", "position", "token", "note")
        table(columns, map(_marked, items), right="step,position")


def _marked(mark: dict[str, Any]) -> tuple[Any, ...]:
    names = ("rollout_id", "step", "position", "text", "note")
    changed = " (the run was resumed: another text now)" if mark["rewritten"] else ""
    return (*(mark[name] for name in names[:-1]), f"{mark['note']}{changed}")


def _write_prompts(engine: "Engine", run: str, out: Path) -> dict[str, Any]:
    """Writes the file; what `--json` says of it."""
    from storage.marks.prompts import marked_prompts

    prompts = marked_prompts(engine, run)
    content = b"".join(prompts.lines())
    for remark in prompts.remarks():
        say(remark)
    with aside(out, "--prompts") as path:
        path.write_bytes(content)
    say(f"{len(prompts.rows)} prompts → {out}; a run that reads and grades them as this one did:")
    settings = prompts.settings(str(out.absolute()))
    say(f"opd train RECIPE {' '.join(f'--set {shlex.quote(text)}' for text in settings)}")
    return {"prompts": {"file": str(out), "count": len(prompts.rows), "settings": settings}}
