"""Which rows a run takes: drawn from their sources, held out, and as their columns map them."""

import random
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from opd.bundled import facts, office
from opd.bundled.handbook import HANDBOOK_SOURCES
from opd.bundled.problems import Split, problems
from opd.config.data import PROBES, SUITES, DataConfig, PromptsConfig
from opd.config.folders import BUNDLED_DATA, is_local
from opd.config.run import RunConfig
from opd.data.evaluation.counts import AvailableRows, RowCounts
from opd.data.mapping import Draft, Mapper
from opd.data.overlap import Overlap, overlaps, repeats, without
from opd.data.rows import Row, Table, bad_data
from opd.data.sources import RowSelection, has_splits, open_table
from opd.errors import ErrorKind, UserError
from opd.models.folders.progress import Say
from opd.types import HELD_OUT


@dataclass(frozen=True)
class DataFindings:
    """What a run's rows are: their forms, and which of them stand twice."""

    forms: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # source → form → rows
    overlaps: Sequence[Overlap] = ()  # of training with each evaluation
    repeats: Sequence[tuple[str, str]] = ()  # rows of training that are equal
    excluded: int = 0  # rows left out of training because they stand in an evaluation


NO_FINDINGS = DataFindings()
_Drawn = tuple[list[Draft], list[Draft], list[Draft], AvailableRows]


@dataclass(frozen=True)
class DraftSets:
    """A run's rows; those of a suite by its name."""

    train: list[Draft]
    held_out: list[Draft]
    probe: list[Draft]
    suites: Mapping[str, list[Draft]]
    findings: DataFindings
    counts: Mapping[str, RowCounts]  # of the held-out prompts and each suite


def read_drafts(config: RunConfig, say: Say = lambda _: None) -> DraftSets:
    """All rows of a run, before they are rendered. Raises UserError for what cannot be read.

    `say` is told of forms that were recognised and of rows that stand in training and evaluation.
    """
    train, held_out, probe, available = _drawn(config, say)
    suites = {name: _suite(config, name, say) for name in config.evaluation.suites}
    evaluation = {"the held-out prompts": [*held_out, *probe]}
    evaluation |= {f"suite {name}": drafts for name, drafts in suites.items()}
    common = overlaps(train, evaluation)
    kept = without(train, common) if config.prompts.exclude_evaluation else train
    if not kept:
        raise UserError(
            "leaves no training prompt: all of them are in the evaluation",
            where="prompts.exclude_evaluation",
            kind=ErrorKind.BAD_DATA,
        )
    forms: dict[str, Counter[str]] = {}
    for source, drafts in (
        (config.prompts.source, train),
        (config.prompts.eval_source or config.prompts.source, [*held_out, *probe]),
        *((config.evaluation.suites[name].source, drafts) for name, drafts in suites.items()),
    ):
        if source not in BUNDLED_DATA:
            forms.setdefault(source, Counter()).update(d.form for d in drafts)
    findings = DataFindings(forms, common, repeats(train), len(train) - len(kept))
    for line in described(findings, len(train)):
        say(line)
    counts = {HELD_OUT: RowCounts(available, len(held_out))}
    counts |= {n: RowCounts(AvailableRows(len(d)), len(d)) for n, d in suites.items()}
    return DraftSets(kept, held_out, probe, suites, findings, counts)


def described(findings: DataFindings, count: int) -> list[str]:
    """The findings on `count` training rows, a sentence each."""
    lines = [f"{source} read as {forms_text(f)}" for source, f in findings.forms.items()]
    lines += [
        f"{len(o.rows)} of {count} training prompts are also in {o.evaluation}, the first at "
        f"{o.rows[0][0]} and {o.rows[0][1]}"
        for o in findings.overlaps
    ]
    if findings.excluded:
        lines.append(f"{findings.excluded} of {count} training prompts were left out for that")
    return lines


def forms_text(forms: Mapping[str, int]) -> str:
    if len(forms) == 1:
        return next(iter(forms))
    return ", ".join(f"{form} ({count:,})" for form, count in forms.items())


def source_mapper(config: RunConfig, name: str, say: Say = lambda _: None) -> Mapper:
    """The opened source that a set's rows come from, with what maps them: `name` is train,
    held-out, or a suite's section (evaluation.suites.NAME). Raises UserError."""
    if name.startswith(SUITES):
        return _suite_source(config, name.removeprefix(SUITES), say)
    data = config.prompts
    most = config.evaluation.prompts + _wished(data)
    if name != "train" and (_is_apart(data) or data.source in BUNDLED_DATA):
        return _evaluation_source(data, most, say)
    return _training_source(data, most, say)


def _suite(config: RunConfig, name: str, say: Say) -> list[Draft]:
    mapped = _suite_source(config, name, say)
    return mapped(range(min(config.evaluation.suites[name].count, mapped.table.count)))


def _suite_source(config: RunConfig, name: str, say: Say) -> Mapper:
    suite, path = config.evaluation.suites[name], f"{SUITES}{name}"
    if suite.source in BUNDLED_DATA:
        steps = suite.problem_steps or config.prompts.problem_steps
        draw = _Draw(suite.count, "eval", steps, config.prompts.problem_seed)
        return _bundled(suite, suite.source, draw, path)
    selection = RowSelection(suite.split, suite.count, f"{path}.source", say)
    return Mapper(suite, open_table(suite, suite.source, selection), path)


def _drawn(config: RunConfig, say: Say) -> _Drawn:
    """Train, held-out and probe rows, and how many there are to hold out. A source without an own
    one for evaluation is shuffled by the seed, and its first rows are held out.
    """
    data, held = config.prompts, config.evaluation.prompts
    probe = _wished(data)
    mapped = _training_source(data, held + probe, say)
    if not _is_apart(data) and data.source not in BUNDLED_DATA:
        return _shared(config, mapped)
    train = mapped(range(min(data.count, mapped.table.count)))
    mapped = _evaluation_source(data, held + probe, say)
    others = mapped(range(min(held + probe, mapped.table.count)))
    available = AvailableRows(len(others))
    if not _is_apart(data):
        return train, others[:held], others[held:], available
    probe = _probes(len(others), data)
    return train, others[probe : probe + held], others[:probe], available


def _is_apart(data: PromptsConfig) -> bool:
    """Whether a source or a split of its own is named for evaluation."""
    return data.eval_source is not None or data.eval_split is not None


def _training_source(data: PromptsConfig, held_out: int, say: Say) -> Mapper:
    """At most `held_out` rows of it are held out, where nothing else is named for evaluation."""
    if data.source in BUNDLED_DATA:
        if data.eval_split is not None and data.eval_source is None:
            raise UserError("the bundled problems have no splits", where="prompts.eval_split")
        draw = _Draw(data.count, "train", data.problem_steps, data.problem_seed)
        return _bundled(data, data.source, draw)
    apart = _is_apart(data)
    enough = data.count if apart else data.count + held_out
    if not apart and is_local(data.source):
        enough = sys.maxsize
    selection = RowSelection(data.split, enough, "prompts.source", say)
    return Mapper(data, open_table(data, data.source, selection), "prompts")


def _evaluation_source(data: PromptsConfig, count: int, say: Say) -> Mapper:
    """The source that is only for evaluation: its first `count` rows are taken."""
    source, name = data.eval_source or data.source, "prompts.eval_source"
    if source in BUNDLED_DATA:
        return _bundled(data, source, _Draw(count, "eval", data.problem_steps, data.problem_seed))
    if data.eval_source is None:
        name = "prompts.eval_split"
        if not has_splits(source):
            raise UserError(f"{source} has no splits; give prompts.eval_source", where=name)
    selection = RowSelection(data.eval_split or data.split, count, name, say)
    return Mapper(data, open_table(data, source, selection), "prompts")


def _shared(config: RunConfig, mapped: Mapper) -> _Drawn:
    data, held, table = config.prompts, config.evaluation.prompts, mapped.table
    if table.count < 2:
        raise UserError(
            f"{data.source} has {table.count} prompt; at least 2 are needed to hold one out "
            "(or give prompts.eval_source)",
            where="prompts.source",
            kind=ErrorKind.BAD_DATA,
        )
    order = list(range(table.count))
    random.Random(f"split/{config.seed}").shuffle(order)
    most = held + _wished(data)
    share = max(1, min(most, round(table.count * data.eval_share)))
    available = AvailableRows(share, table.count)
    probe = _probes(share, data)
    share = min(share, held + probe)
    chosen = order[: share + data.count]
    drafts = mapped(chosen)
    return drafts[share:], drafts[probe:share], drafts[:probe], available


def _wished(data: PromptsConfig) -> int:
    """How many probes are asked for, or taken by default where there is enough."""
    return PROBES if data.probe is None else data.probe


def _probes(held_out: int, data: PromptsConfig) -> int:
    """How many of the held-out prompts become probes. Raises UserError where none would be left."""
    if data.probe is None:
        return min(PROBES, held_out // 4)
    if held_out <= data.probe:
        raise UserError(
            f"{data.probe} leaves none of the {held_out} held-out prompts to evaluate on; ask for "
            "fewer or hold out more (prompts.eval_share, prompts.eval_source)",
            where="prompts.probe",
        )
    return data.probe


@dataclass(frozen=True)
class _Draw:
    """Which bundled rows: how many of which split, by a seed that is not the run's, so that runs
    differ only in their samples."""

    count: int
    split: Split
    steps: int  # of a word problem
    seed: int


def _bundled(data: DataConfig, source: str, draw: _Draw, path: str = "prompts") -> Mapper:
    try:
        rows = _bundled_rows(source, draw)
    except ValueError as error:
        raise UserError(str(error), where=path) from None
    named = [Row(row, f"{source}, {draw.split} row {i}") for i, row in enumerate(rows)]
    columns = tuple(named[0].fields) if named else ()
    table = Table(source, columns, len(named), lambda indices: [named[i] for i in indices])
    return Mapper(data, table, path)


def _bundled_rows(source: str, draw: _Draw) -> list[dict[str, Any]]:
    if source == "bundled":
        made = problems(draw.count, seed=draw.seed, split=draw.split, steps=draw.steps)
        return [{"prompt": p.prompt, "answer": p.answer, "completion": p.solution} for p in made]
    split: facts.Split = "tune" if draw.split == "eval" and draw.seed else draw.split
    if source in HANDBOOK_SOURCES:
        shuffled = random.Random(f"{source}/{split}/{draw.seed}")
        return HANDBOOK_SOURCES[source](split, draw.count, shuffled)
    return office.rows(source, split, draw.count, draw.seed)


def check_training_rows(config: RunConfig, train: Sequence[Draft]) -> None:
    """Raises UserError for a row without what the run trains on: a completion, an answer."""
    if config.author == "given":
        _check_given(train, config.prompts)
    if config.objective.uses_rewards:
        _check_answers(train, config.prompts)


def _check_given(train: Sequence[Draft], data: DataConfig) -> None:
    for draft in train:
        if not draft.completion and draft.reply is None:
            raise bad_data(
                draft.where,
                f"no completion in {data.columns.completion}; sampling.source given needs one of "
                "every training prompt",
            )


def _check_answers(train: Sequence[Draft], data: DataConfig) -> None:
    for draft in train:
        if draft.answer is None and data.grader != "json":
            raise bad_data(
                draft.where, f"no answer in {data.columns.answer}; the objective needs a reward"
            )
