"""How many prompts an evaluation has, and why fewer than were asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from opd.config.data import DataConfig
from opd.config.run import RunConfig
from opd.types import HELD_OUT, EvaluationCount, MissingPrompts


class HasAnswer(Protocol):
    @property
    def answer(self) -> str | None: ...


@dataclass(frozen=True)
class AvailableRows:
    """Rows that there are for an evaluation; `of`: that they are held out of so many."""

    rows: int
    of: int | None = None


@dataclass(frozen=True)
class RowCounts:
    """Of one evaluation: rows that there are, and those taken."""

    available: AvailableRows
    taken: int


def evaluation_counts(
    config: RunConfig,
    rows: Mapping[str, RowCounts],
    prompts: Mapping[str, Sequence[HasAnswer]],
) -> list[EvaluationCount]:
    """Of the held-out prompts and of each suite, by its name; `prompts` are those that fit.

    The limit is what is used and all that is missing, each counted by itself.
    """
    counts = []
    for suite, fitting in prompts.items():
        held_out = suite == HELD_OUT
        data = config.prompts if held_out else config.evaluation.suites[suite]
        section = "prompts" if held_out else f"evaluation.suites.{suite}"
        limit = config.evaluation.prompts if held_out else config.evaluation.suites[suite].count
        number = "evaluation.prompts" if held_out else f"{section}.count"
        taken = rows[suite].taken
        ungraded = sum(p.answer is None for p in fitting) if _needs_answers(data) else 0
        missing = [
            *_missing_rows(config, limit, rows[suite], number),
            MissingPrompts(
                "too_long",
                taken - len(fitting),
                "too long and left out",
                f"raise {section}.max_prompt_tokens or lower sampling.max_new_tokens",
            ),
            MissingPrompts(
                "no_answer",
                ungraded,
                "without an answer, which cannot be graded",
                f"give every row an answer ({section}.columns.answer)",
            ),
        ]
        used = len(fitting) - ungraded
        counts.append(
            EvaluationCount(suite, number, limit, used, tuple(m for m in missing if m.count))
        )
    return counts


def _needs_answers(data: DataConfig) -> bool:
    return data.grader not in ("none", "json")


def _missing_rows(
    config: RunConfig, limit: int, counts: RowCounts, number: str
) -> list[MissingPrompts]:
    """Of the limit: what the source lacks, and what of it the probes take."""
    rows, of = counts.available.rows, counts.available.of
    lacking = max(0, limit - rows)
    share = config.prompts.eval_share
    short = MissingPrompts(
        "source",
        lacking,
        f"not there: the source has only {rows:,} rows",
        f"add rows, or lower {number}",
    )
    if of is not None:
        short = MissingPrompts(
            "eval_share",
            lacking,
            f"not held out: prompts.eval_share {share:g} of {of:,} rows is {rows:,}",
            "raise prompts.eval_share, or name prompts.eval_source",
        )
    probes = MissingPrompts(
        "probes",
        limit - lacking - counts.taken,
        "kept as probes, which are answered but not scored",
        "lower prompts.probe",
    )
    return [short, probes]
