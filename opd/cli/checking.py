"""`opd doctor`."""

import os
from typing import Annotated, Any

import typer

from opd.cli.inspect_runs import Json
from opd.cli.output import json_line, plain, result, say, table
from opd.cli.place import Place
from opd.cli.training import configuration

HEADS = {"error": "Errors", "warning": "Warnings", "info": "Good to know", "ok": "In order"}


def doctor(
    place: Place,
    source: Annotated[
        str, typer.Argument(metavar="RECIPE_OR_FILE", help="A recipe's name or a YAML file.")
    ],
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Changes a field; may be repeated."),
    ] = None,
    static: Annotated[
        bool, typer.Option("--static", help="Loads no models and uses no network.")
    ] = False,
    json: Json = False,
) -> None:
    """Checks a run before it is started."""
    config, _ = configuration(source, assignments or [])
    os.environ.setdefault("TQDM_DISABLE", "1")  # bars would stand between the lines
    from opd.doctor.examine import examine, report
    from opd.loading import Outside
    from opd.worker.references import names_runs, resolved

    if names_runs(config):
        config = resolved(place.engine(), place.data_dir, config)
    outside = Outside(say=lambda text: say(plain(f"{text} …")))
    found = report(config, list(examine(config, models=not static, outside=outside)))
    if json:
        json_line(found)
    else:
        _show(found)
    raise typer.Exit(0 if found["ok"] else 1)


def _show(found: dict[str, Any]) -> None:
    for severity, head in HEADS.items():
        chosen = [f for f in found["findings"] if f["severity"] == severity]
        if chosen:
            result(f"\n{head}")
        for finding in chosen:
            result(plain(f"  {finding['title']}"))
            if severity != "ok":
                result(plain(f"    {finding['text']}"))
            if finding["advice"]:
                result(plain(f"    → {finding['advice']}"))
    if found["memory"] is not None:
        _memory(found["memory"])


def _memory(memory: dict[str, Any]) -> None:
    rows = [
        (p["name"], _where(p), f"{p['bytes'] / 1e9:.3f}", p["formula"]) for p in memory["parts"]
    ]
    rows.append(("in all, at the worst moment", "device", f"{memory['device'] / 1e9:.3f}", ""))
    if memory["host"]:
        rows.append(("in all", "host", f"{memory['host'] / 1e9:.3f}", ""))
    result("")
    table(("memory", "when", "GB", "formula"), rows, right="GB")
    for field in memory["unknown"]:
        result(plain(f"{field} is not counted: its size is not known here"))


def _where(part: dict[str, Any]) -> str:
    return "host" if part["where"] == "host" else str(part["phase"])
