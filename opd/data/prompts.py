"""Prompts: drawn from any source, split, rendered and tokenized, and taken by step from a seed."""

import random
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from opd.bundled import facts, office
from opd.bundled.handbook import HANDBOOK_SOURCES
from opd.bundled.problems import Split, problems
from opd.config.data import PROBES, DataConfig, PromptsConfig
from opd.config.folders import BUNDLED_DATA, is_local
from opd.config.run import RunConfig
from opd.config.templates import render
from opd.data.chats import (
    NO_OPTIONS,
    ChatOptions,
    Message,
    options_of,
    rendered_chat,
    rendered_reply,
    with_last_question,
    with_system,
)
from opd.data.mapping import Draft, Mapper
from opd.data.rows import Row, Table, bad_data
from opd.data.sources import RowSelection, has_splits, open_table
from opd.errors import ErrorKind, UserError
from opd.models.encoding import prompt_ids, text_ids
from opd.models.folders.progress import Say

SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Prompt:
    """One prompt; `number` is its index in the run's prompt set and seeds its rollouts.

    `text` is as rendered, by the chat template too; `row` has the data's own columns and, as the
    configuration maps them, `prompt` and `answer` (`full_answer` where answer_in_data cut it out).
    """

    number: int
    text: str
    ids: tuple[int, ...]
    answer: str | None
    row: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Message, ...] | None = None
    completion: str | None = None
    options: ChatOptions = NO_OPTIONS  # of the chat template: its section's and the row's own


@dataclass(frozen=True)
class Suite:
    """Prompts of one name that the student is evaluated on, and how they are graded."""

    name: str
    prompts: Sequence[Prompt]
    data: DataConfig
    at_ends: bool = False  # only in the first and the last evaluation


@dataclass(frozen=True)
class PromptSet:
    """The run's prompts; no prompt stands in two of the parts."""

    train: Sequence[Prompt]
    held_out: Sequence[Prompt]
    probe: Sequence[Prompt] = ()
    suites: Mapping[str, Suite] = field(default_factory=dict)

    def for_step(self, step: int, count: int, seed: int) -> list[Prompt]:
        """The step's prompts (steps count from 1): a fresh shuffle for every pass over the set.

        Depends only on (seed, step, count), so that a resumed run draws what it would have drawn.
        """
        first = (step - 1) * count
        passes: dict[int, list[int]] = {}
        chosen = []
        for position in range(first, first + count):
            turn, index = divmod(position, len(self.train))
            if turn not in passes:
                passes[turn] = random.Random(f"{seed}/{turn}").sample(
                    range(len(self.train)), len(self.train)
                )
            chosen.append(self.train[passes[turn][index]])
        return chosen


def load_prompts(
    config: RunConfig,
    tokenizer: Any,
    context: int,
    say: Say = lambda _: None,
    vocab: int | None = None,
) -> PromptSet:
    """The run's prompts. Raises UserError naming field, or file and line, of what cannot be used.

    `context` is the models', in tokens, and `vocab` the number of ids that they share (None: not
    known); `say` is told what is being loaded and what is left out.
    """
    room = context - config.sampling.max_new_tokens
    if room < 1:
        raise UserError(
            f"{config.sampling.max_new_tokens} leaves no room for a prompt in the models' context "
            f"of {context} tokens",
            where="sampling.max_new_tokens",
        )
    train, held_out, probe = _drawn(config, say)
    if config.author == "given":
        _check_given(train, config.prompts)
    if config.objective.uses_rewards:
        _check_answers(train, config.prompts)
    first = 0
    sets = []
    for name, drafts in (("train", train), ("held-out", held_out), ("probe", probe)):
        given = config.author == "given" and name == "train"
        builder = _PromptBuilder(
            config.prompts, tokenizer, room, f"{name} prompts", "prompts", say, given, vocab
        )
        sets.append(builder.prompts(drafts, first))
        first += len(drafts)
    suites = {}
    for name, suite in config.evaluation.suites.items():
        path = f"evaluation.suites.{name}"
        what = f"prompts of {name}"
        builder = _PromptBuilder(suite, tokenizer, room, what, path, say, vocab=vocab)
        if suite.source in BUNDLED_DATA:
            steps = suite.problem_steps or config.prompts.problem_steps
            draw = _Draw(suite.count, "eval", steps, config.prompts.problem_seed)
            drafts = _bundled(suite, suite.source, draw, path)
        else:
            table = open_table(
                suite, suite.source, RowSelection(suite.split, suite.count, f"{path}.source", say)
            )
            drafts = Mapper(suite, table, path)(range(min(suite.count, table.count)))
        suites[name] = Suite(name, builder.prompts(drafts, first), suite, suite.when == "ends")
        first += len(drafts)
    return PromptSet(sets[0], sets[1], sets[2], suites)


def rendered(
    prompt: Prompt, data: DataConfig, tokenizer: Any, *, template: str | None, system: str | None
) -> tuple[str, tuple[int, ...]]:
    """The prompt as a teacher reads it: text and ids, the student's own without either template.

    `template`, over the prompt's row, replaces a plain prompt's text or the content of a chat's
    last user message; `system` replaces a chat's system message, or becomes it. Raises UserError
    for unknown fields and for a system message of a plain prompt.
    """
    if template is None and system is None:
        return prompt.text, prompt.ids
    if prompt.messages is None:
        if system is not None:
            raise UserError(
                "only chat prompts have a system message; set prompts.chat",
                where="teacher.system",
            )
        text = render(template or "", prompt.row, where="teacher.prompt")
        return text, prompt_ids(tokenizer, [text], chat=False)[0]
    messages = list(prompt.messages)
    if template is not None:
        content = render(template, prompt.row, where="teacher.prompt")
        replaced = with_last_question(messages, content)
        if replaced is None:
            raise UserError("the chat has no user message to replace", where="teacher.prompt")
        messages = replaced
    if system is not None:
        content = render(system, prompt.row, where="teacher.system")
        messages = with_system(messages, content, replacing=True)
    options = prompt.options.over(options_of(data))
    text = rendered_chat(tokenizer, messages, where="teacher.prompt", options=options)
    return text, prompt_ids(tokenizer, [text], chat=True)[0]


def chat_text(tokenizer: Any, messages: Sequence[Message], data: DataConfig) -> str:
    """A conversation as the student reads it before its next reply. Raises UserError where the
    chat template refuses the messages.
    """
    if data.system is not None:
        messages = with_system(messages, data.system, replacing=False)
    return rendered_chat(tokenizer, messages, where="conversations", options=options_of(data))


def _drawn(config: RunConfig, say: Say) -> tuple[list[Draft], list[Draft], list[Draft]]:
    """Train, held-out and probe rows. A source without an own one for evaluation is shuffled by
    the seed, and its first rows are held out.
    """
    data, held = config.prompts, config.evaluation.prompts
    probe = _wished(data)
    apart = data.eval_source is not None or data.eval_split is not None
    if data.source in BUNDLED_DATA and data.eval_split is not None and data.eval_source is None:
        raise UserError("the bundled problems have no splits", where="prompts.eval_split")
    if data.source in BUNDLED_DATA:
        draw = _Draw(data.count, "train", data.problem_steps, data.problem_seed)
        train = _bundled(data, data.source, draw)
        if not apart:
            kept = replace(draw, count=held + probe, split="eval")
            others = _bundled(data, data.source, kept)
            return train, others[:held], others[held:]
    else:
        enough = data.count if apart else data.count + held + probe
        everything = not apart and is_local(data.source)
        selection = RowSelection(
            data.split, sys.maxsize if everything else enough, "prompts.source", say
        )
        table = open_table(data, data.source, selection)
        mapped = Mapper(data, table, "prompts")
        if not apart:
            return _shared(config, table, mapped)
        train = mapped(range(min(data.count, table.count)))
    others = _apart(data, held + probe, say)
    probe = _probes(len(others), data)
    return train, others[probe : probe + held], others[:probe]


def _apart(data: PromptsConfig, count: int, say: Say) -> list[Draft]:
    """The first rows of the source that is only for evaluation."""
    source, name = data.eval_source or data.source, "prompts.eval_source"
    if source in BUNDLED_DATA:
        return _bundled(data, source, _Draw(count, "eval", data.problem_steps, data.problem_seed))
    if data.eval_source is None:
        name = "prompts.eval_split"
        if not has_splits(source):
            raise UserError(f"{source} has no splits; give prompts.eval_source", where=name)
    table = open_table(data, source, RowSelection(data.eval_split or data.split, count, name, say))
    return Mapper(data, table, "prompts")(range(min(count, table.count)))


def _shared(
    config: RunConfig, table: Table, mapped: Mapper
) -> tuple[list[Draft], list[Draft], list[Draft]]:
    data, held = config.prompts, config.evaluation.prompts
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
    probe = _probes(share, data)
    share = min(share, held + probe)
    chosen = order[: share + data.count]
    drafts = mapped(chosen)
    return drafts[share:], drafts[probe:share], drafts[:probe]


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


def _bundled(data: DataConfig, source: str, draw: _Draw, path: str = "prompts") -> list[Draft]:
    try:
        rows = _bundled_rows(source, draw)
    except ValueError as error:
        raise UserError(str(error), where=path) from None
    named = [Row(row, f"{source}, {draw.split} row {i}") for i, row in enumerate(rows)]
    columns = tuple(named[0].fields) if named else ()
    table = Table(source, columns, len(named), lambda indices: [named[i] for i in indices])
    return Mapper(data, table, path)(range(len(named)))


def _bundled_rows(source: str, draw: _Draw) -> list[dict[str, Any]]:
    if source == "bundled":
        made = problems(draw.count, seed=draw.seed, split=draw.split, steps=draw.steps)
        return [{"prompt": p.prompt, "answer": p.answer, "completion": p.solution} for p in made]
    split: facts.Split = "tune" if draw.split == "eval" and draw.seed else draw.split
    if source in HANDBOOK_SOURCES:
        shuffled = random.Random(f"{source}/{split}/{draw.seed}")
        return HANDBOOK_SOURCES[source](split, draw.count, shuffled)
    return office.rows(source, split, draw.count, draw.seed)


@dataclass(frozen=True)
class _PromptBuilder:
    """Renders and tokenizes drafts; `what` and `path` name the set and its section."""

    data: DataConfig
    tokenizer: Any
    room: int  # tokens that the context leaves for a prompt
    what: str
    path: str
    say: Say
    given: bool = False  # whether the data's own completions are trained on
    vocab: int | None = None  # number of ids that the models share

    def prompts(self, drafts: Sequence[Draft], first: int) -> list[Prompt]:
        """Prompts numbered from `first`; a dropped one's number is left out.

        What the tokenizer puts first by itself (a BOS) belongs to a plain prompt; a chat template
        writes it on its own.
        """
        made = [self._rendered(draft, first + i) for i, draft in enumerate(drafts)]
        kept = []
        for chat in (False, True):
            group = [p for p in made if (p.messages is not None) is chat]
            encoded = prompt_ids(self.tokenizer, [p.text for p in group], chat=chat)
            for prompt, ids in zip(group, encoded, strict=True):
                self._check_ids(prompt, ids, drafts[prompt.number - first].where)
                if self._fits(ids, drafts[prompt.number - first].where):
                    kept.append(replace(prompt, ids=ids))
        self._tell_dropped(len(made), len(made) - len(kept))
        return sorted(kept, key=lambda p: p.number)

    def _rendered(self, draft: Draft, number: int) -> Prompt:
        if draft.messages is None:
            text, completion = draft.text or "", draft.completion
            if completion is None and draft.reply is not None:
                completion = draft.reply["content"]
            prompt = Prompt(number, text, (), draft.answer, draft.row, None, completion)
        else:
            prompt = self._chat(draft, draft.messages, number)
        for part in (prompt.text, prompt.completion):
            if part is not None and SURROGATE.search(part):
                raise bad_data(draft.where, "the prompt holds half a character (a lone surrogate)")
        return prompt

    def _chat(self, draft: Draft, messages: Sequence[Message], number: int) -> Prompt:
        if getattr(self.tokenizer, "chat_template", None) is None:
            raise UserError(
                "the student's tokenizer has no chat template; use plain prompts, or the model "
                "that was tuned for chats",
                where=f"{self.path}.chat",
            )
        if self.data.system is not None:
            messages = with_system(messages, self.data.system, replacing=False)
        options = draft.options.over(options_of(self.data))
        text = rendered_chat(self.tokenizer, messages, where=draft.where, options=options)
        completion = draft.completion
        if completion is None and draft.reply is not None:
            completion = draft.reply["content"]
            if self.given:
                completion = rendered_reply(
                    self.tokenizer, messages, draft.reply, where=draft.where, options=options
                )
        chat = tuple(messages)
        return Prompt(number, text, (), draft.answer, draft.row, chat, completion, options)

    def _check_ids(self, prompt: Prompt, ids: Sequence[int], where: str) -> None:
        """Raises UserError for a token that a model has no row for."""
        if self.vocab is None:
            return
        given = prompt.completion if self.given else None
        if given and len(self.tokenizer) > self.vocab:
            ids = [*ids, *text_ids(self.tokenizer, given)]
        largest = max(ids, default=0)
        if largest >= self.vocab:
            raise bad_data(
                where,
                f"token {self.tokenizer.convert_ids_to_tokens(largest)!r} has id {largest}, beyond "
                f"the {self.vocab} ids that the models share; resize the smaller embedding, or "
                "use the tokenizer that it was trained with",
            )

    def _fits(self, ids: Sequence[int], where: str) -> bool:
        if not ids:
            raise bad_data(where, "the prompt has no tokens")
        limit = min(self.room, self.data.max_prompt_tokens or self.room)
        if len(ids) <= limit:
            return True
        if self.data.overlong == "drop":
            return False
        reason = (
            f"the models' context leaves room for {limit} beside sampling.max_new_tokens"
            if limit == self.room
            else f"{self.path}.max_prompt_tokens is {limit}"
        )
        raise bad_data(
            where,
            f"the prompt has {len(ids)} tokens; {reason} ({self.path}.overlong: drop leaves such "
            "prompts out)",
        )

    def _tell_dropped(self, count: int, dropped: int) -> None:
        if count and dropped == count:
            raise bad_data(f"{self.path}.overlong", f"all {count} {self.what} are too long")
        if dropped:
            self.say(f"{dropped} of {count} {self.what} are too long and were left out")


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
