"""`opd train`, `opd resume`, `opd cancel`."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.inspect_runs import Json, Run
from app.cli.output import json_line, plain, result, say
from app.cli.workspace import Workspace
from opd.errors import ConfigError, ErrorKind, UserError

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from app.worker.job import Outcome
    from opd.config.run import RunConfig
    from storage.queue.jobs import CancelMode

Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Change a field; repeatable."),
]
EXIT_CODES = {"finished": 0, "failed": 1, "cancelled": 1, "interrupted": 130, None: 1}
CANCEL_PATIENCE = 30.0


def train(
    workspace: Workspace,
    source: Annotated[
        str, typer.Argument(metavar="RECIPE_OR_FILE", help="Recipe name or YAML file.")
    ],
    assignments: Assignments = None,
    json: Json = False,
) -> None:
    """Train one run in the foreground."""
    _follow_if_not_first()
    config, recipe = configuration(source, assignments or [])
    from app.worker.owners.person import command_user
    from app.worker.process import this_process
    from app.worker.ranks.order import as_torchrun_started
    from app.worker.webhook.notification import check_setting
    from storage.queue import jobs

    check_setting()
    workspace.check_files()
    config = as_torchrun_started(config)
    engine = workspace.engine()
    me = this_process(workspace.data_dir)
    run_id = jobs.create_run(engine, config, recipe=recipe, waiter=me, started_by=command_user())
    _to_the_end(workspace, engine, run_id, json)


def _follow_if_not_first() -> None:
    """Where torchrun has started this command in several processes, the first does what it says and
    the others train along."""
    from app.worker.ranks.order import TorchrunPlace

    torchrun = TorchrunPlace.here()
    if torchrun is not None and torchrun.rank > 0:
        from app.worker.ranks.follower import follow_torchrun

        raise typer.Exit(follow_torchrun(torchrun))


def configuration(source: str, assignments: list[str]) -> "tuple[RunConfig, str]":
    """The validated configuration and the recipe's name, empty for a file."""
    from opd.config.drafts.short_forms import with_overrides
    from opd.config.drafts.yaml_text import Document, read_file
    from opd.config.recipes import recipes
    from opd.config.run import check_inputs, parse

    bundled = {r.name: r for r in recipes()}
    if source in bundled:
        document, recipe = Document(bundled[source].config), source
    elif Path(source).expanduser().is_file():
        document, recipe = read_file(Path(source).expanduser()), ""
    else:
        raise UserError(
            f"no recipe or file of this name; recipes: {', '.join(bundled)}", where=source
        )
    try:
        return check_inputs(parse(with_overrides(document.data, assignments))), recipe
    except ConfigError as error:
        raise document.without(assignments).located(error) from None


def resume(
    workspace: Workspace,
    run: Run,
    accept_changes: Annotated[
        bool,
        typer.Option(
            "--accept-changes",
            help="Resume even if models, data, tokenizer or chat template have changed since.",
        ),
    ] = False,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Go on with another value of a setting that decides memory or device; repeatable.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Resume a run from its last checkpoint."""
    _follow_if_not_first()
    from app.worker.owners.person import command_user
    from app.worker.process import this_process
    from app.worker.ranks.order import TorchrunPlace, check_one_machine
    from app.worker.recovery import settled
    from app.worker.run_inputs import check_unchanged
    from app.worker.webhook.notification import check_setting
    from storage.queue import jobs
    from storage.read.runs import read_run

    check_setting()
    workspace.check_files()
    engine = workspace.engine()
    torchrun, devices = TorchrunPlace.here(), read_run(engine, run)["config"].get("devices", 1)
    if torchrun is not None:
        check_one_machine(torchrun)
    if torchrun is not None and torchrun.size != devices:
        assignments = [*(assignments or []), f"devices={torchrun.size}"]
    settled(engine, workspace.data_dir, run)
    if not accept_changes:
        check_unchanged(engine, workspace.data_dir, run)
    if read_run(engine, run)["status"] != "queued":
        jobs.requeue(
            engine,
            run,
            waiter=this_process(workspace.data_dir),
            accept_changes=accept_changes,
            settings=assignments or [],
            by=command_user(),
        )
    elif assignments:
        raise UserError("is queued: its settings can be changed once it has ended", where=run)
    _to_the_end(workspace, engine, run, json)


def _to_the_end(workspace: Workspace, engine: "Engine", run_id: str, json: bool) -> None:
    from app.cli.foreground import run_to_the_end

    outcome = run_to_the_end(workspace, engine, run_id)
    report, lost = _report(engine, run_id), None
    try:
        _print_report(report, json)
    except OSError as error:  # how the run ended decides the exit code, whoever reads of it
        lost = None if isinstance(error, BrokenPipeError) else error
    code = _exit_code(outcome, run_id)
    if lost is not None and code == 0:
        raise lost
    sys.exit(code)


def _print_report(report: dict[str, Any], json: bool) -> None:
    if json:
        json_line(report)
    else:
        result(f"{report['run_id']} {report['status']} after {report['steps']} steps")
        if report["end_reason"]:
            result(f"  ended by {plain(report['end_reason'])}")
        for name, value in report["metrics"].items():
            if name.startswith("eval/") and not name.endswith("/start"):
                start = report["metrics"].get(f"{name}/start")
                result(f"  {name}  {'' if start is None else f'{start:.3f} → '}{value:.3f}")


def _exit_code(outcome: "Outcome", run_id: str) -> int:
    failure = outcome.failure
    if outcome.status is None:
        say(f"{run_id} was taken over by another process")
    if failure is not None:
        # Of bad input the text itself says what to do.
        advice = "" if failure.kind.by_input else failure.kind.hint
        text = ". ".join(p for p in (failure.text.rstrip("."), advice) if p)
        # Ctrl-C is no error, but what was asked for.
        say(plain(text if failure.kind == ErrorKind.INTERRUPTED else f"Error: {text}"))
    if outcome.status == "interrupted":
        say(f"to resume: opd resume {run_id}")
    if failure is not None and outcome.status == "failed":
        return failure.kind.exit_code
    return EXIT_CODES[outcome.status]


def _report(engine: "Engine", run_id: str) -> dict[str, Any]:
    """The object that ends `--json`: every metric's last value, evaluations and their start."""
    from storage.read.runs import read_evaluations, read_run, read_steps

    run = read_run(engine, run_id)
    metrics: dict[str, float] = {}
    skipped = ("step", "attempt", "created_at", "tokens", "flops")
    for name, values in read_steps(engine, run_id)["columns"].items():
        present = [v for v in values if v is not None]
        if present and name not in skipped and not name.startswith("seconds_"):
            metrics[name] = present[-1]
    for score in read_evaluations(engine, run_id)["items"]:
        name = f"eval/{score['suite']}/{score['metric']}"
        metrics[name] = score["value"]
        if score["step"] == 0:
            metrics[f"{name}/start"] = score["value"]
    return {
        "run_id": run_id,
        "status": run["status"],
        "steps": run["step"],
        "end_reason": run["end_reason"],
        "metrics": metrics,
    }


def cancel(
    workspace: Workspace,
    run: Run,
    discard: Annotated[
        bool, typer.Option("--discard", help="Save nothing and delete the run's checkpoints.")
    ] = False,
) -> None:
    """Stop a run, with a checkpoint to resume from. Waits until its process has exited."""
    from app.worker.cancellation import Pressure
    from app.worker.owners.person import command_user
    from app.worker.owners.standing import Judge
    from app.worker.recovery import look, running
    from storage.queue import jobs
    from storage.read.runs import read_run

    engine = workspace.engine()
    mode: CancelMode = "discard" if discard else "save"
    status = jobs.request_cancel(engine, run, mode, command_user())
    pressure, judge = Pressure(engine, workspace.data_dir), Judge(workspace.data_dir)
    until = time.monotonic() + CANCEL_PATIENCE
    while status == "running" and time.monotonic() < until:
        time.sleep(0.1)
        for entry in running(engine):
            if entry.id == run:
                living = look(engine, workspace.data_dir, entry, judge) == "living"
                if living and judge.place.judges(entry.owner):
                    pressure.press(entry)
        status = read_run(engine, run)["status"]
    result(f"{run} {status}")
    if status == "running":
        raise typer.Exit(1)
