"""`opd data`, `opd prompts`."""

import json as json_text
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.inspect_runs import Json
from app.cli.output import json_line, plain, result, say
from app.cli.training import Assignments, configuration
from app.cli.workspace import Workspace
from opd.errors import UserError

if TYPE_CHECKING:
    from opd.data.preview import Preview, ShownRow
    from opd.interactive.prompt_preview import PreviewedPrompt, PromptPreview, PromptReader


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
    from opd.config.drafts.short_forms import with_overrides
    from opd.config.folders import BUNDLED_DATA
    from opd.config.run import parse
    from opd.data.preview import preview

    if source in BUNDLED_DATA:
        raise UserError("is made by the program; give a file, a folder or a hub id", where=source)
    settings = with_overrides({"prompts": {"source": source}}, assignments or [])
    tokenizer = None if model is None else _tokenizer(model)
    seen = preview(parse(settings).prompts, count=rows, tokenizer=tokenizer, say=_progress)
    if json:
        json_line(seen.as_dict())
    else:
        _show(seen)
    raise typer.Exit(1 if seen.unusable else 0)


def prompts(
    workspace: Workspace,
    source: Annotated[
        str, typer.Argument(metavar="RECIPE_OR_FILE", help="Recipe name or YAML file.")
    ],
    assignments: Assignments = None,
    of: Annotated[
        str,
        typer.Option(
            "--of",
            metavar="SET",
            help="train, held-out, probe or a suite's section (evaluation.suites.NAME).",
        ),
    ] = "train",
    count: Annotated[int, typer.Option(min=1, max=20, help="Number of prompts to show.")] = 3,
    json: Json = False,
) -> None:
    """Show a run's first prompts as student and teacher will read them; loads no weights."""
    config, _ = configuration(source, assignments or [])
    from app.worker.references import names_runs, resolved
    from opd.interactive.prompt_preview import preview_prompts

    if names_runs(config):
        config = resolved(workspace.engine(), workspace.data_dir, config, say=_progress)
    seen = preview_prompts(config, of, count=count, say=_progress)
    if json:
        json_line(seen.as_dict())
    else:
        _show_prompts(seen)
    raise typer.Exit(1 if seen.problem else 0)


def _progress(text: str) -> None:
    say(plain(f"{text} …"))


def _tokenizer(model: str) -> Any:
    from opd.models.folders.resolve import resolve_tokenizer
    from opd.models.tokenizers import load_tokenizer

    folder = resolve_tokenizer(model, where="--model", say=_progress)
    tokenizer = load_tokenizer(folder, where="--model")
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
    tokens = "" if row.tokens is None else f", {row.tokens:,} tokens"
    result(plain(f"{row.where} ({row.form}{tokens})"))
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


def _show_prompts(seen: "PromptPreview") -> None:
    rows = seen.rows
    what = "rows" if seen.problem else "prompts"
    result(plain(f"{seen.name}: {seen.count:,} {what} of {rows.source}, read as {rows.form}"))
    for name, role in rows.columns.items():
        result(plain(f"  {name}: {role or 'not part of a prompt'}"))
    of = "" if seen.counted == seen.count else f" of the first {seen.counted:,}"
    result(f"The longest{of} has {seen.longest:,} tokens; {seen.too_long:,} too long")
    if seen.problem:
        result(plain(f"The run cannot start: {seen.problem}"))
    for where, message in rows.problems:
        result(plain(f"  {where}: {message}"))
    if seen.note:
        result(plain(seen.note))
    for prompt in seen.prompts:
        _show_prompt(prompt)


def _show_prompt(prompt: "PreviewedPrompt") -> None:
    result("")
    result(plain(f"{prompt.where} ({prompt.form}), {prompt.verdict}"))
    for reader in prompt.readers:
        result(plain(f"  {reader.section}, {reader.model}: {_length(reader)}"))
        if reader.pieces:
            result(plain(f"    {''.join(piece.text for piece in reader.pieces)!r}"))
    for name, text in (("answer", prompt.answer), ("completion", prompt.completion)):
        if text is not None:
            result(plain(f"  {name}: {text!r}"))


def _length(reader: "PromptReader") -> str:
    if reader.tokens is None:
        return reader.problem
    limit = "" if reader.limit is None else f" of at most {reader.limit:,} ({reader.limited_by})"
    same = ", the student's prompt" if reader.same else ""
    unknown = f", {reader.unknown:,} of them unknown" if reader.unknown else ""
    return f"{reader.tokens:,} tokens{limit}{unknown}{same}"
