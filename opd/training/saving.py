"""The trained student as a folder that transformers or peft loads, with a card that says how."""

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from opd.config.model_files.weights import ADAPTER
from opd.config.run import RunConfig, to_yaml
from opd.config.wording import teacher_name, trained
from opd.errors import UserError
from opd.files import written_aside
from opd.models.folders.adapters import merged
from opd.models.folders.resolve import folder_of_tokenizer, resolve
from opd.models.load import load_model
from opd.models.tokenizers import load_tokenizer, save_tokenizer
from opd.training.checkpoint_manifest import BESIDE_THE_MODEL
from opd.types import Score


@dataclass(frozen=True)
class Provenance:
    """What a model card says about the run."""

    run_id: str
    config: RunConfig
    step: int
    versions: Mapping[str, str]
    before: Sequence[Score]
    after: Sequence[Score]


def save(
    checkpoint: Path, out: Path, made: Provenance, *, merge_into: str = "", link: bool = False
) -> None:
    """Writes the checkpoint's student to `out`, all of it or nothing.

    A low-rank adapter is written as such, or merged into the model named; all weights are written
    as they are. link: where both lie on one disk, files are the checkpoint's own. Raises UserError
    when `out` exists and is not an empty folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            "exists and is not an empty folder; nothing was written", where=f"--out {out}"
        )
    with ExitStack() as stack:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            aside = stack.enter_context(written_aside(out, folder=True, shared=True))
        except OSError as error:
            raise UserError(
                f"cannot be written ({error.strerror}); name a folder where you may write",
                where=f"--out {out}",
            ) from None
        adapter = (checkpoint / ADAPTER).is_file()
        if adapter and merge_into:
            _merge(checkpoint, aside, merge_into)
        else:
            left_out = shutil.ignore_patterns(*BESIDE_THE_MODEL)
            copy = _linked if link else shutil.copy2
            shutil.copytree(
                checkpoint, aside, ignore=left_out, copy_function=copy, dirs_exist_ok=True
            )
        card = model_card(made, adapter=adapter and not merge_into)
        (aside / "README.md").write_text(card, encoding="utf-8")


def _linked(source: str, target: str) -> str:
    """For a folder that is read once and removed."""
    try:
        os.link(source, target)
    except OSError:  # on another disk, or one without hard links
        shutil.copy2(source, target)
    return target


def _merge(checkpoint: Path, folder: Path, reference: str) -> None:
    base = resolve(reference, where="student.model")
    model = merged(load_model(base, where="student.model"), checkpoint)
    model.save_pretrained(folder)
    vocabulary = folder_of_tokenizer(base, where="student.model")
    save_tokenizer(load_tokenizer(vocabulary, where="student.model"), folder)


def model_card(made: Provenance, *, adapter: bool) -> str:
    """Markdown with the front matter that hubs read."""
    config = made.config
    front = [
        "---",
        f"base_model: {config.student.model!r}",
        f"library_name: {'peft' if adapter else 'transformers'}",
        "tags: [on-policy-distillation]",
        "---",
        "",
    ]
    body = [
        f"# {config.student.model.rsplit('/', 1)[-1]}, distilled on-policy",
        "",
        f"Made by OPD Studio in run `{made.run_id}`: {made.step} steps from "
        f"`{config.student.model}` with `{teacher_name(config.teacher)}` as the teacher, prompts "
        f"from `{config.prompts.source}`. Trained: {trained(config)}.",
        "",
        "| held-out score | before | after |",
        "|---|---|---|",
        *_score_rows(made),
        "",
        "± is one standard error.",
        "",
        "## Configuration",
        "",
        "```yaml",
        to_yaml(config, only_set=False).rstrip(),
        "```",
        "",
        "Versions: " + ", ".join(f"{k} {v}" for k, v in made.versions.items()) + ".",
        "",
    ]
    return "\n".join(front + body)


def _score_rows(made: Provenance) -> list[str]:
    before = {(s.suite, s.metric): s for s in made.before}
    return [
        f"| {s.suite}, {s.metric} | {_figure(before.get((s.suite, s.metric)))} | {_figure(s)} |"
        for s in made.after
    ]


def _figure(score: Score | None) -> str:
    if score is None:
        return "–"
    return f"{score.value:.3f} ± {score.standard_error:.3f} (n = {score.n})"
