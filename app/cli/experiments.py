"""`opd experiment`."""

import re
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.inspect_runs import Json
from app.cli.output import json_line, json_list, plain, result, say, scaled, table
from app.cli.workspace import Workspace
from opd.errors import UserError

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from storage.queue.jobs import Owner

ID = re.compile(r"exp-[a-z0-9]{1,28}")
EXIT_CODES = {"finished": 0, "failed": 1, "cancelled": 1, "stopped": 130}
SHOWN = (
    *("name", "label", "n", "reached", "score", "low", "high", "steps_to_target"),
    *("tokens_to_target", "flops_to_target", "seconds_to_target", "chosen", "choices", "cells"),
)


def experiment(
    workspace: Workspace,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME_OR_FILE]",
            help="Experiment name, YAML file, or exp-… to resume; omit to list all.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(help="Number of seeds (runs) per arm.", show_default=False),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Two seeds with the stored best values.")
    ] = False,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="FIELD=VALUE", help="Change a field of every arm; repeatable."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Run an experiment and print its table. Several arms and seeds, as ordinary runs."""
    if name is None:
        _list(json)
        return
    from app.worker.owners.person import command_user
    from app.worker.process import this_process
    from storage.comparison import experiment_results
    from storage.queue import experiments

    engine, owner = workspace.engine(), this_process(workspace.data_dir)
    if ID.fullmatch(name):
        if seeds is not None or quick or assignments:
            raise UserError(
                "continues with its original settings; give no other options", where=name
            )
        exp = name
        _take_up(workspace, engine, exp, owner)
    else:
        from opd.experiments.definition import experiment as named
        from opd.experiments.definition import with_settings

        definition = with_settings(named(name), assignments or [])
        owned: dict[str, Any] = {"owner": owner, "started_by": command_user()}
        exp = experiments.create_experiment(engine, definition, quick=quick, seeds=seeds, **owned)
    _to_the_end(workspace, engine, exp, owner)
    results = experiment_results.experiment(engine, exp)
    if json:
        json_line(outcome(results))
    else:
        _tell(results)
    sys.exit(EXIT_CODES.get(results["status"], 1))


def outcome(results: dict[str, Any]) -> dict[str, Any]:
    """The object that ends `--json`."""
    facts = (
        *(
            "id",
            "fingerprint",
            "name",
            "title",
            "status",
            "error_text",
            "quick",
            "seeds",
            "command",
        ),
        *("created_at", "finished_at", "metric", "target"),
    )
    arms = [
        {**{name: arm[name] for name in SHOWN}, "runs": [run["id"] for run in arm["runs"]]}
        for arm in results["arms"]
    ]
    rest = ("ratios", "comparisons", "columns", "table")
    return {
        **{name: results[name] for name in facts},
        "arms": arms,
        **{name: results[name] for name in rest},
    }


def _take_up(workspace: Workspace, engine: "Engine", name: str, owner: "Owner") -> None:
    """Makes this process the owner of an experiment that has not finished."""
    from app.worker.experiments import end_orphaned
    from app.worker.owners.person import command_user
    from app.worker.owners.standing import Judge
    from app.worker.recovery import bury_dead
    from storage.queue import experiments

    judge = Judge(workspace.data_dir)
    bury_dead(engine, workspace.data_dir, judge)
    while name in end_orphaned(engine, judge):
        time.sleep(0.2)
    if experiments.experiment_row(engine, name)["status"] != "finished":
        experiments.resume_experiment(engine, name, owner, command_user())


def _to_the_end(workspace: Workspace, engine: "Engine", name: str, owner: "Owner") -> None:
    """Makes and runs what the experiment needs, until it has ended."""
    from app.worker.experiments import advance
    from storage.comparison import experiment_results
    from storage.queue import experiments
    from storage.read.runs import read_run

    announced, done = "", False
    try:
        while (run_id := advance(engine, workspace.data_dir, name, owner)) is not None:
            run = read_run(engine, run_id)
            if run_id != announced:
                state = experiment_results.experiment_progress(engine, name)
                say(f"{name}: run {state['done'] + 1} of {state['total']}, {plain(run['name'])}")
                announced = run_id
            _run(workspace, engine, run)
        done = True
    finally:
        if not done:  # whatever ends this command, the experiment can be resumed
            experiments.cancel_waiting(engine, name)
            text = "the command that ran it has exited"
            experiments.end_experiment(engine, name, "stopped", text)


def _run(workspace: Workspace, engine: "Engine", run: dict[str, Any]) -> None:
    """One run to its end: here on a processor, in a process of its own where there are GPUs, whose
    memory only an exit gives back for certain."""
    import gc

    from app.cli.foreground import run_as_job, run_to_the_end, wait_for
    from opd.devices.gpus import gpu_count

    if run["status"] != "queued":
        wait_for(workspace, engine, run["id"])
    elif gpu_count():
        run_as_job(workspace, engine, run["id"])
    else:
        run_to_the_end(workspace, engine, run["id"])
        gc.collect()  # models of one run are gone before those of the next are loaded


def _list(json: bool) -> None:
    from opd.experiments.definition import experiments as bundled

    listed = bundled()
    if json:
        json_list([{"name": e.name, "title": e.title, "question": e.question} for e in listed])
    else:
        table(("experiment", "title", "question"), ((e.name, e.title, e.question) for e in listed))


def _tell(results: dict[str, Any]) -> None:
    result(f"{results['id']} {results['name']} {results['status']}")
    if results["error_text"]:
        say(plain(f"{results['error_text']}; to resume: opd experiment {results['id']}"))
    columns = [c["label"] for c in results["columns"]]
    heads = ("arm", "seeds", "score", "steps", "tokens", "FLOPs", "seconds", *columns)
    rows = [
        (
            arm["label"],
            f"{arm['n']}",
            interval(arm["score"], arm["low"], arm["high"]),
            *_costs(arm, results["target"] is not None),
            *(interval(c["value"], c["low"], c["high"]) for c in arm["cells"].values()),
        )
        for arm in results["table"]
    ]
    table(heads, rows, right=",".join(heads[1:]))
    if results["target"]:
        result(f"target: {results['target']['text']}")
    for pair in results["comparisons"]:
        parts = [
            f"{n} {interval(**r, unit='×')}"
            for n, r in pair["ratios"].items()
            if r["value"] is not None
        ]
        missed = "–" if pair["reached"] else "not every seed reached it"
        note = f" ({pair['note']})" if pair["note"] else ""
        result(f"{pair['label']}{note}: {', '.join(parts) or missed}")


def _costs(arm: dict[str, Any], aimed: bool) -> list[str]:
    names = ("steps_to_target", "tokens_to_target", "flops_to_target", "seconds_to_target")
    from opd.experiments.definition import START

    if not aimed or arm["arm"] == START:
        return ["–"] * len(names)
    missed = f"{arm['reached']} of {arm['n']} reached it"
    if arm[names[0]] is None:
        return [missed, *["–"] * (len(names) - 1)]
    return [scaled(arm[name]) for name in names]


def interval(value: float | None, low: float | None, high: float | None, unit: str = "") -> str:
    """`7.1 (6.2–8.3)`, or `7.1× (6.2–8.3)`."""
    if value is None:
        return "–"
    return f"{value:.3g}{unit}" + (
        "" if low is None or high is None else f" ({low:.3g}–{high:.3g})"
    )
