"""`opd export`, `opd import`, `opd score`, `opd save`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.inspect_runs import Run
from app.cli.out.files import aside, check_ending
from app.cli.output import result, say
from app.cli.workspace import Workspace
from opd.errors import UserError

if TYPE_CHECKING:
    from opd.models.token_text import TokenText

Out = Annotated[Path, typer.Option("--out", help="Output path.", show_default=False)]
Form = Annotated[
    str,
    typer.Option("--format", help="rollouts, vllm, trl or trainer; auto detects it from the file."),
]
PromptTokens = Annotated[
    int | None,
    typer.Option(
        "--prompt-tokens",
        min=1,
        max=10_000_000,
        help="For vllm: prompt length, where completions start.",
    ),
]
MAX_TEMPERATURE = 10
SUFFIXES = (".jsonl", ".parquet", ".csv")


def export(
    workspace: Workspace,
    run: Run,
    out: Out,
    table: Annotated[
        bool,
        typer.Option(
            "--table", help="One flat row per rollout, without token records; CSV always is."
        ),
    ] = False,
) -> None:
    """Export a run's rollouts. With token records, as JSON lines or Parquet; as a table, as CSV or
    Parquet."""
    check_ending(out, SUFFIXES)
    from app.worker.files.rollouts import RolloutExport, write_rollouts
    from storage.read.runs import read_run

    rollouts = RolloutExport([run], out.suffix.lower().removeprefix("."), table)  # type: ignore[arg-type]
    engine = workspace.engine()
    read_run(engine, run)
    with aside(out) as path:
        count = write_rollouts(path, rollouts, rollouts.rows(engine, _tell_damaged))
    result(f"{count} rollouts → {out}")


def import_file(
    workspace: Workspace,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines or Parquet file.")],
    name: Annotated[str, typer.Option("--name", help="Name of the new run.")],
    form: Form = "auto",
    prompt_tokens: PromptTokens = None,
) -> None:
    """Import rollouts as a run to inspect. All of the file or none of it."""
    from app.worker.owners.person import command_user
    from opd.config.run import parse
    from opd.interchange.formats import open_rollouts
    from storage.queue import jobs
    from storage.write.imports import import_rollouts

    source = open_rollouts(_existing(file), form, prompt_tokens=prompt_tokens)
    config = parse({"name": name, "student": "imported", "teacher": "imported"})
    engine = workspace.engine()
    run_id = jobs.create_run(engine, config, source="import", started_by=command_user())
    count = import_rollouts(engine, run_id, source.rollouts, source.vocabulary)
    if source.shape:
        say(f"read as {source.shape}")
    if source.rewards:
        say(f"reward: {' + '.join(source.rewards)}")
    for change, times in source.changes.items():
        say(f"{times} {change}")
    result(f"{run_id} {count} rollouts")


def score(
    workspace: Workspace,
    student: Annotated[str, typer.Option(help="Student model: folder, hub id or bundled/student.")],
    teacher: Annotated[str, typer.Option(help="Teacher model: folder, hub id or bundled/teacher.")],
    rollouts: Annotated[Path, typer.Option(help="File of prompts and completions, as for import.")],
    out: Out,
    temperature: Annotated[
        float | None,
        typer.Option(help="Temperature of both models; default: each line's own, or 1."),
    ] = None,
    top_k: Annotated[int, typer.Option(min=0, max=64, help="Alternatives kept per token.")] = 8,
    end_token: Annotated[
        str | None,
        typer.Option(help="The teacher's own end token, as teacher.end_token of a run."),
    ] = None,
    form: Form = "auto",
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda, cuda:N or mps, as device of a run.")
    ] = "auto",
) -> None:
    """Score completions with both models. Writes token records; nothing is trained."""
    from opd.interchange.formats import open_rollouts
    from opd.interchange.jsonl import to_row, write_line

    if temperature is not None and not 0 < temperature <= MAX_TEMPERATURE:
        raise UserError(
            f"must be above 0 and at most {MAX_TEMPERATURE} (got {temperature})",
            where="--temperature",
        )
    # All of it is checked before models load
    total = sum(1 for _ in open_rollouts(rollouts, form).rollouts)
    with aside(out) as path, path.open("wb") as file:
        from app.worker.devices.holds import hold_device
        from app.worker.models.converted import model_at_hand
        from opd.config.run import parse
        from opd.devices.choice import pick_device
        from opd.models.load import load_pair
        from opd.models.token_text import TokenText
        from opd.teachers.end_token import end_token_of
        from opd.training.rescore import chat_of, score_rollouts

        folders = [
            model_at_hand(workspace.data_dir, reference, where=f"--{field}", say=say)
            for field, reference in (("student", student), ("teacher", teacher))
        ]
        held = hold_device(workspace.engine, workspace.data_dir, parse({"device": device}))
        pair = load_pair(folders[0], folders[1], device=pick_device(held.config.device))
        source = open_rollouts(rollouts, form, chat=chat_of(pair.tokenizer)).rollouts
        text = TokenText(pair.tokenizer)
        end = end_token_of(end_token, pair, where="--end-token")
        scored = score_rollouts(
            pair, source, temperature=temperature, top_k=top_k, end=end, teacher=teacher
        )
        for rollout in scored:
            write_line(file, _with_texts(to_row(rollout), text))
    held.close()
    result(f"{total} rollouts → {out}")


def _existing(file: Path) -> Path:
    if not file.exists():
        raise UserError("no such file", where=str(file))
    return file


def save(
    workspace: Workspace,
    run: Run,
    out: Out,
    merge: Annotated[
        bool, typer.Option("--merge", help="Merge the adapter into its base model.")
    ] = False,
) -> None:
    """Save the trained student. A transformers folder or an adapter, with a model card."""
    from app.worker.files.saved_model import save_model

    step = save_model(workspace.engine(), workspace.data_dir, run, out, merge=merge)
    result(f"{run} after step {step} → {out}")


def _tell_damaged(error: UserError) -> None:
    say(f"skipped: {error}")


def _with_texts(row: dict[str, Any], text: "TokenText") -> dict[str, Any]:
    """The row with each token's text, so that it can be read where the tokenizer is not."""
    from opd.interchange.parquet import TOPK
    from storage.text import joined_texts, token_text

    for side in ("prompt", "completion"):
        ids = row[f"{side}_token_ids"]
        texts = text(set(ids))
        row[f"{side}_tokens"] = joined_texts(texts[i][0] for i in ids)
    listed = {pair[0] for name in TOPK for pairs in row[name] or () for pair in pairs}
    others = listed - {*row["prompt_token_ids"], *row["completion_token_ids"]}
    row["token_texts"] = [[i, token_text(data)] for i, (data, _) in sorted(text(others).items())]
    return row
