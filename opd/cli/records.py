"""`opd export`, `opd import`, `opd score`, `opd save`."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from opd.cli.inspect_runs import Run
from opd.cli.output import result, say
from opd.cli.place import Place
from opd.types import Score, UserError

if TYPE_CHECKING:
    from opd.token_text import TokenText

Out = Annotated[Path, typer.Option("--out", help="Where to write.", show_default=False)]
MAX_TEMPERATURE = 10
SUFFIXES = (".jsonl", ".parquet")


def export(place: Place, run: Run, out: Out) -> None:
    """The run's rollouts with their token records, as JSON lines or Parquet."""
    if out.suffix not in SUFFIXES:
        raise UserError(
            f"must end in {' or '.join(SUFFIXES)} (got {out.suffix or 'no ending'})",
            where=f"--out {out}",
        )
    from storage import queries

    engine = place.engine()
    queries.run(engine, run)
    with _aside(out) as path:
        count = _write(path, out.suffix, queries.export_rows(engine, run, _tell_damaged))
    result(f"{count} rollouts → {out}")


def import_file(
    place: Place,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines, one rollout each.")],
    name: Annotated[str, typer.Option("--name", help="What the run is called.")],
) -> None:
    """Token records from elsewhere become a run that can be inspected; all of them or none."""
    from opd.config import parse
    from opd.interchange import read_rollouts
    from storage import jobs
    from storage.records import import_rollouts

    if not file.is_file():
        raise UserError("no such file", where=str(file))
    config = parse({"name": name, "student": "imported", "teacher": "imported"})
    engine = place.engine()
    run_id = jobs.create_run(engine, config, source="import")
    count = import_rollouts(engine, run_id, read_rollouts(file))
    result(f"{run_id} {count} rollouts")


def score(
    place: Place,
    student: Annotated[str, typer.Option(help="Folder, hub id, or bundled/student.")],
    teacher: Annotated[str, typer.Option(help="Folder, hub id, or bundled/teacher.")],
    rollouts: Annotated[Path, typer.Option(help="JSON lines with prompts and completions.")],
    out: Out,
    temperature: Annotated[
        float | None, typer.Option(help="Of both models; else each line's own, or 1.")
    ] = None,
    top_k: Annotated[int, typer.Option(min=0, max=64, help="Alternatives kept a token.")] = 8,
) -> None:
    """Teacher-forces given completions and writes their token records; nothing is trained."""
    from opd.interchange import read_rollouts, to_row, write_line

    del place  # nothing is stored
    if temperature is not None and not 0 < temperature <= MAX_TEMPERATURE:
        raise UserError(
            f"must be above 0 and at most {MAX_TEMPERATURE} (got {temperature})",
            where="--temperature",
        )
    total = sum(1 for _ in read_rollouts(rollouts))  # all of it is checked before models load
    with _aside(out) as path, path.open("wb") as file:
        from opd.models import load_pair, pick_device
        from opd.offline import score_rollouts
        from opd.token_text import TokenText

        pair = load_pair(student, teacher, device=pick_device("auto"))
        source = read_rollouts(rollouts)
        text = TokenText(pair.tokenizer)
        for rollout in score_rollouts(pair, source, temperature=temperature, top_k=top_k):
            write_line(file, _with_texts(to_row(rollout), text))
    result(f"{total} rollouts → {out}")


def save(
    place: Place,
    run: Run,
    out: Out,
    merge: Annotated[
        bool, typer.Option("--merge", help="Merge the adapter into the model it belongs to.")
    ] = False,
) -> None:
    """The trained student as a transformers folder or an adapter, with its model card."""
    from opd.config import parse
    from storage import queries

    engine = place.engine()
    info = queries.run(engine, run)
    if not info["checkpoints"]:
        raise UserError("has no checkpoint to save", where=run)
    newest = info["checkpoints"][-1]
    from opd.manifest import checkpoints_of, folder_of, verify
    from opd.saving import Provenance
    from opd.saving import save as save_student
    from opd.worker.references import resolved

    folder = folder_of(checkpoints_of(place.data_dir, run), newest["step"])
    verify(folder, newest["manifest"])
    config = parse(info["config"])
    scores = queries.evaluations(engine, run)["items"]
    made = Provenance(
        run,
        config,
        newest["step"],
        info["versions"],
        before=_scores(scores, 0),
        after=_scores(scores, max((s["step"] for s in scores), default=0)),
    )
    base = resolved(engine, place.data_dir, config, run).student.model if merge else ""
    save_student(folder, out, made, merge_into=base)
    result(f"{run} after step {newest['step']} → {out}")


def _scores(items: list[dict[str, Any]], step: int) -> list[Score]:
    names = ("suite", "metric", "value", "n", "standard_error")
    return [Score(**{name: s[name] for name in names}) for s in items if s["step"] == step]


def _tell_damaged(error: UserError) -> None:
    say(f"left out: {error}")


@contextmanager
def _aside(out: Path) -> Iterator[Path]:
    """A new file beside `out` that takes its place when all went well. Raises UserError."""
    where = f"--out {out}"
    if out.is_dir():
        raise UserError("is a folder; name a file in it", where=where)
    aside = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        aside.touch()
    except OSError as error:
        raise UserError(
            f"cannot be written ({error.strerror}); name a file in a folder that exists and that "
            "you may write to",
            where=where,
        ) from None
    try:
        yield aside
        aside.replace(out)
    finally:
        aside.unlink(missing_ok=True)


def _with_texts(row: dict[str, Any], text: "TokenText") -> dict[str, Any]:
    """The row with each token's text, so that it can be read where the tokenizer is not."""
    from storage.text import joined_texts

    for side in ("prompt", "completion"):
        ids = row[f"{side}_token_ids"]
        known = text(set(ids))
        row[f"{side}_tokens"] = joined_texts(known[i][0] for i in ids)
    return row


def _write(path: Path, suffix: str, rows: Iterable[dict[str, Any]]) -> int:
    from opd.interchange import write_line
    from opd.parquet import write_parquet

    if suffix == ".parquet":
        return write_parquet(path, rows)
    count = 0
    with path.open("wb") as file:
        for row in rows:
            write_line(file, row)
            count += 1
        file.flush()
        os.fsync(file.fileno())
    return count
