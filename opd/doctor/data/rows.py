"""Rows as they were read: their form, those that stand twice, what the chat template leaves out."""

from collections.abc import Iterator
from typing import Any

from opd.data.drafts import forms_text
from opd.data.prompts import PromptSet, ignored_options
from opd.doctor.findings import Finding

EXAMPLES = 3


def check_data(prompts: PromptSet, tokenizer: Any) -> Iterator[Finding]:
    findings = prompts.findings
    for source, forms in findings.forms.items():
        rows = sum(forms.values())
        yield Finding(
            "data-form",
            "ok",
            f"{source} read as {forms_text(forms)}",
            f"`opd data {source}` shows its rows.",
            evidence={"source": source, "rows": rows, "forms": dict(forms)},
        )
    yield from _in_evaluation(prompts)
    yield from _fewer(prompts)
    if findings.repeats:
        examples = [f"{again} as {first}" for first, again in findings.repeats[:EXAMPLES]]
        yield Finding(
            "train-repeats",
            "info",
            f"{len(findings.repeats):,} training prompts occur more than once",
            f"They are equal except for whitespace and case, and count as often as they occur: "
            f"{'; '.join(examples)}.",
            evidence={"count": len(findings.repeats)},
        )
    for line in ignored_options(tokenizer, prompts.train):
        yield Finding(
            "template-ignores",
            "warning",
            f"The {line.removeprefix('the ')}",
            "The data or prompts.template_args give it to the student's chat template, which does "
            "not use it: the prompt is the same without it.",
            "Use a model whose template reads it, or leave it out.",
        )
    for column in prompts.unused_columns:
        yield Finding(
            "unused-columns",
            "warning",
            f"Column {column.name} is not used",
            f"It is in {column.counted}. The student's chat template reads a variable of that "
            "name, but does not get it from there.",
            f"Set {column.remedy}.",
            {"column": column.name, "section": column.section, "rows": column.rows},
        )


def _in_evaluation(prompts: PromptSet) -> Iterator[Finding]:
    findings = prompts.findings
    for overlap in findings.overlaps:
        examples = [f"{ours} as {theirs}" for ours, theirs in overlap.rows[:EXAMPLES]]
        what = f"{len(overlap.rows):,} training prompts are also in {overlap.evaluation}"
        text = f"They are equal except for whitespace and case: {'; '.join(examples)}."
        evidence = {
            "evaluation": overlap.evaluation,
            "count": len(overlap.rows),
            "train": [ours for ours, _ in overlap.rows[:EXAMPLES]],
        }
        if findings.excluded:
            yield Finding("train-in-evaluation", "ok", f"{what}; left out", text, evidence=evidence)
        else:
            yield Finding(
                "train-in-evaluation",
                "warning",
                what,
                f"{text} The scores there then measure memory, too.",
                "Set prompts.exclude_evaluation to true, which leaves them out of training.",
                evidence,
            )


def _fewer(prompts: PromptSet) -> Iterator[Finding]:
    """Evaluations with fewer prompts than were asked for, and why."""
    for count in prompts.counts:
        if not count.missing:
            continue
        lost = count.used and any(m.reason in ("too_long", "no_answer") for m in count.missing)
        yield Finding(
            "evaluation-prompts",
            "warning" if lost else "info",
            f"{count.used:,} of {count.asked:,} {count.what} are scored",
            f"{count.field} asks for {count.asked:,}; {count.reasons}. Standard errors are "
            "those of the prompts that are scored.",
            f"To use more: {'; '.join(m.remedy for m in count.missing)}.",
            {"suite": count.suite, "asked": count.asked, "used": count.used}
            | {m.reason: m.count for m in count.missing},
        )
