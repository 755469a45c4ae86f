"""`opd data`."""

import json as json_text
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.inspect_runs import Json
from app.cli.output import json_line, plain, result, say
from app.cli.workspace import Workspace
from opd.errors import UserError

if TYPE_CHECKING:
    from opd.data.preview import Preview, ShownRow


def data(
    workspace: Workspace,
    source: Annotated[
        str, typer.Argument(metavar="FILE", help="Data file, folder of files, or hub id.")
    ],
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Change a field of prompts; repeatable."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Render chats by this model's template.")
    ] = None,
    rows: Annotated[int, typer.Option(min=0, max=100, help="Number of rows to show.")] = 3,
    json: Json = False,
) -> None:
    """Show how a data file is read: its form, its first prompts, and rows that cannot be used."""
    from opd.config.folders import BUNDLED_DATA
    from opd.config.run import parse, with_overrides
    from opd.data.preview import preview

    if source in BUNDLED_DATA:
        raise UserError("is made by the program; give a file, a folder or a hub id", where=source)
    settings = with_overrides({"prompts": {"source": source}}, assignments or [])
    tokenizer = None if model is None else _tokenizer(model)
    seen = preview(parse(settings).prompts, count=rows, tokenizer=tokenizer, say=_progress)
    if json:
        json_line(asdict(seen) | {"problems": [{"row": w, "message": m} for w, m in seen.problems]})
    else:
        _show(seen)
    raise typer.Exit(1 if seen.unusable else 0)


def _progress(text: str) -> None:
    say(plain(f"{text} …"))


def _tokenizer(model: str) -> Any:
    from opd.models.folders.resolve import resolve
    from opd.models.tokenizers import load_tokenizer

    tokenizer = load_tokenizer(resolve(model, where="--model"), where="--model")
    if getattr(tokenizer, "chat_template", None) is None:
        raise UserError("has no chat template", where=f"--model {model}")
    return tokenizer


def _show(seen: "Preview") -> None:
    result(plain(f"{seen.source}: {seen.rows:,} rows, read as {seen.form}"))
    result(f"{seen.answers:,} with an answer, {seen.completions:,} with a completion")
    if seen.repeats:
        result(f"{seen.repeats:,} occur more than once (equal except for whitespace and case)")
    if seen.unread:
        columns = ", ".join(f"{name} ({count:,})" for name, count in seen.unread.items())
        result(plain(f"Columns that are not part of a prompt: {columns}"))
    if seen.unusable:
        result(f"\n{seen.unusable:,} rows cannot be used:")
        for where, message in seen.problems:
            result(plain(f"  {where}: {message}"))
    for row in seen.shown:
        _show_row(row)


def _show_row(row: "ShownRow") -> None:
    result("")
    result(plain(f"{row.where} ({row.form})"))
    if isinstance(row.prompt, str):
        result(plain(f"  prompt: {row.prompt!r}"))
    else:
        for message in row.prompt:
            more = {k: v for k, v in message.items() if k not in ("role", "content")}
            tail = f" {json_text.dumps(more, ensure_ascii=False, default=str)}" if more else ""
            result(plain(f"  {message['role']}: {message['content']!r}{tail}"))
    if row.completion is not None:
        result(plain(f"  completion: {row.completion!r}"))
    if row.answer is not None:
        result(plain(f"  answer: {row.answer!r}"))
