"""`opd doctor`."""

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from app.cli.inspect_runs import Json
from app.cli.output import json_line, plain, result, say, table
from app.cli.training import Assignments, configuration
from app.cli.workspace import Workspace
from opd.errors import UserError

if TYPE_CHECKING:
    from app.worker.devices.holds import DeviceHold
    from opd.config.run import RunConfig
    from opd.doctor.findings import Finding
    from opd.experiments.definition import Experiment

HEADS = {"error": "Errors", "warning": "Warnings", "info": "Notes", "ok": "Passed"}


def doctor(
    workspace: Workspace,
    source: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE_OR_FILE", help="Recipe, experiment, or YAML file of either."
        ),
    ],
    assignments: Assignments = None,
    static: Annotated[
        bool, typer.Option("--static", help="Load no models and use no network.")
    ] = False,
    json: Json = False,
) -> None:
    """Check a run or an experiment before starting it."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # bars would stand between the lines
    workspace.warn()
    definition = _experiment(source, assignments or [])
    if definition is not None:
        _check_experiment(definition, json)
    config, _ = configuration(source, assignments or [])
    from app.worker.devices.examination import examine_on_device
    from app.worker.references import names_runs, needs_conversion, resolved
    from opd.doctor.examine import examine, report
    from opd.training.loading import Callbacks

    callbacks = Callbacks(say=lambda text: say(plain(f"{text} …")))
    if names_runs(config) or (needs_conversion(config) and not static):
        config = resolved(workspace.engine(), workspace.data_dir, config, say=callbacks.say)
    if static:
        findings = examine(config, models=False, callbacks=callbacks)
    else:
        findings = examine_on_device(config, partial(_held, workspace), callbacks)
    checked = report(config, [*_directory(workspace), *findings])
    if json:
        json_line(checked)
    else:
        _show(checked)
    raise typer.Exit(0 if checked["ok"] else 1)


def _directory(workspace: Workspace) -> "list[Finding]":
    """What keeps runs from being stored."""
    from opd.doctor.findings import Finding
    from storage.files.file_system import examine as examine_directory

    problems = [p for p in examine_directory(workspace.data_dir) if p.severity == "error"]
    title = "The data directory cannot hold runs"
    where = workspace.data_dir
    return [
        Finding("data-directory", "error", title, f"{where} {p.text}.", p.advice) for p in problems
    ]


def _held(workspace: Workspace, config: "RunConfig") -> "DeviceHold":
    from app.worker.devices.holds import hold_device

    return hold_device(workspace.engine, workspace.data_dir, config)


def _experiment(source: str, assignments: list[str]) -> "Experiment | None":
    """The experiment of that name or file; None for what is a run. Raises UserError."""
    from opd.config.drafts.yaml_text import read_file
    from opd.config.recipes import recipes
    from opd.experiments.definition import experiment, experiments, with_settings

    path = Path(source).expanduser()
    recipe_names = [r.name for r in recipes()]
    experiment_names = [e.name for e in experiments()]
    if source in recipe_names:
        return None
    if source not in experiment_names:
        if not path.is_file():
            raise UserError(
                f"no recipe, experiment or file of this name; recipes: {', '.join(recipe_names)}; "
                f"experiments: {', '.join(experiment_names)}",
                where=source,
            )
        if "arms" not in read_file(path).data:
            return None
    return with_settings(experiment(source), assignments)


def _check_experiment(definition: "Experiment", json: bool) -> NoReturn:
    from opd.doctor.arms import examine_experiment

    checked = examine_experiment(definition, lambda text: say(plain(f"{text} …")))
    if json:
        json_line(checked)
    else:
        _show({"findings": _by_finding(checked["arms"]), "memory": None})
        _show_arms(checked, definition)
    raise typer.Exit(0 if checked["ok"] else 1)


def _by_finding(arms: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Findings of all arms, equal ones once, with the labels of their arms."""
    merged: dict[tuple[str, ...], dict[str, Any]] = {}
    for arm in arms:
        for finding in arm["findings"]:
            same = tuple(finding[n] for n in ("severity", "title", "text", "advice"))
            merged.setdefault(same, {**finding, "arms": []})["arms"].append(arm["label"])
    every = [arm["label"] for arm in arms]
    return [
        {**f, "arms": ["all arms"] if f["arms"] == every else f["arms"]} for f in merged.values()
    ]


def _show_arms(checked: dict[str, Any], definition: "Experiment") -> None:
    from opd.doctor.pace import duration

    def of(seconds: float | None) -> str:
        return "–" if seconds is None else duration(seconds)

    rows = [
        (
            plain(arm["label"]),
            "–" if arm["memory"] is None else f"{arm['memory']['device'] / 1e9:.1f}",
            of(arm["seconds_per_step"]),
            of(arm["seconds"]),
        )
        for arm in checked["arms"]
    ]
    result("")
    table(("arm", "GB", "per step", "per run"), rows, right="GB,per step,per run")
    memory = checked["memory"]
    result(f"\nPeak device memory: {memory['device'] / 1e9:.1f} GB")
    for field in memory["unknown"]:
        result(plain(f"{field} is not counted: its size is unknown here"))
    heads: tuple[tuple[Literal["full", "quick"], str], ...] = (
        ("full", "Full"),
        ("quick", "Quick"),
    )
    for name, what in heads:
        hours, stated = checked[name]["hours"], definition.minutes.get(name)
        time = "" if stated is None else f", {stated:g} min according to its file"
        time = time if hours is None else f", up to {duration(3600 * hours)}"
        result(f"{what}: {checked[name]['runs']} runs{time}")
    if checked["full"]["hours"] is not None:
        result(f"Assumed: {checked['assumed']}")


def _show(checked: dict[str, Any]) -> None:
    for severity, head in HEADS.items():
        chosen = [f for f in checked["findings"] if f["severity"] == severity]
        if chosen:
            result(f"\n{head}")
        for finding in chosen:
            labels = f" [{', '.join(finding['arms'])}]" if "arms" in finding else ""
            result(plain(f"  {finding['title']}{labels}"))
            if severity != "ok":
                result(plain(f"    {finding['text']}"))
            if finding["advice"]:
                result(plain(f"    → {finding['advice']}"))
    if checked["memory"] is not None:
        _memory(checked["memory"])


def _memory(memory: dict[str, Any]) -> None:
    rows = [
        (p["name"], _where(p), f"{p['bytes'] / 1e9:.3f}", p["formula"]) for p in memory["parts"]
    ]
    rows.append(("total at the peak", "device", f"{memory['device'] / 1e9:.3f}", ""))
    if memory["host"]:
        rows.append(("total", "host", f"{memory['host'] / 1e9:.3f}", ""))
    result("")
    table(("memory", "when", "GB", "formula"), rows, right="GB")
    for field in memory["unknown"]:
        result(plain(f"{field} is not counted: its size is unknown here"))


def _where(part: dict[str, Any]) -> str:
    return "host" if part["where"] == "host" else str(part["phase"])
