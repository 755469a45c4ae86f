"""Prompts: drawn from any source, split, rendered and tokenized, and taken by step from a seed."""

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from opd.config.data import DataConfig
from opd.config.run import RunConfig
from opd.config.templates import RESERVED_ARGS, fields_of, render
from opd.data.chats import (
    NO_OPTIONS,
    THINKING_SWITCHES,
    ChatOptions,
    Message,
    options_of,
    rendered_chat,
    rendered_reply,
    template_source,
    template_variables,
    with_default_system,
    with_last_question,
    with_system,
)
from opd.data.drafts import NO_FINDINGS, DataFindings, check_training_rows, read_drafts
from opd.data.evaluation.counts import evaluation_counts
from opd.data.mapping import Draft
from opd.data.rows import bad_data
from opd.errors import UserError
from opd.models.encoding import prompt_ids, text_ids
from opd.models.folders.progress import Say
from opd.types import HELD_OUT, EvaluationCount

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
class UnusedColumn:
    """A column named like a variable of the chat template, in rows that do not give it to it."""

    name: str
    section: str  # prompts, or a suite's path
    rows: int
    args_column: str  # whose value would be given

    def __str__(self) -> str:
        return (
            f"column {self.name} ({self.counted}) is not used, but the chat "
            f"template reads a variable of that name; set {self.remedy}"
        )

    @property
    def counted(self) -> str:
        return f"{self.rows:,} row{'s' if self.rows > 1 else ''} of {self.section}"

    @property
    def remedy(self) -> str:
        return (
            f"{self.section}.template_args.{self.name} for all rows, or give each row's value in "
            f'a column {self.args_column}: {{"{self.name}": …}}'
        )


@dataclass(frozen=True)
class PromptSet:
    """The run's prompts; no prompt stands in two of the parts."""

    train: Sequence[Prompt]
    held_out: Sequence[Prompt]
    probe: Sequence[Prompt] = ()
    suites: Mapping[str, Suite] = field(default_factory=dict)
    findings: DataFindings = NO_FINDINGS
    unused_columns: Sequence[UnusedColumn] = ()
    counts: Sequence[EvaluationCount] = ()  # of the held-out prompts and each suite

    @property
    def all(self) -> list[Prompt]:
        """Those of every part, what is trained on first."""
        suites = [prompt for suite in self.suites.values() for prompt in suite.prompts]
        return [*self.train, *self.held_out, *self.probe, *suites]

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
    room = room_for_prompts(config, context)
    sets = read_drafts(config, say)
    check_training_rows(config, sets.train)
    first = 0
    made = []
    for name, drafts in (("train", sets.train), ("held-out", sets.held_out), ("probe", sets.probe)):
        given = config.author == "given" and name == "train"
        builder = PromptBuilder(
            config.prompts, tokenizer, room, f"{name} prompts", "prompts", say, given, vocab
        )
        made.append(builder.prompts(drafts, first))
        first += len(drafts)
    everything = [prompt for part in made for prompt in part]
    unused = unused_columns(config.prompts, "prompts", tokenizer, everything)
    suites = {}
    for name, suite in config.evaluation.suites.items():
        path = f"evaluation.suites.{name}"
        what = f"prompts of {name}"
        builder = PromptBuilder(suite, tokenizer, room, what, path, say, vocab=vocab)
        prompts = builder.prompts(sets.suites[name], first)
        suites[name] = Suite(name, prompts, suite, suite.when == "ends")
        unused += unused_columns(suite, path, tokenizer, prompts)
        first += len(sets.suites[name])
    for line in (*ignored_options(tokenizer, made[0]), *map(str, unused)):
        say(line)
    fitting = {HELD_OUT: made[1], **{name: suite.prompts for name, suite in suites.items()}}
    counts = evaluation_counts(config, sets.counts, fitting)
    return PromptSet(made[0], made[1], made[2], suites, sets.findings, unused, counts)


def room_for_prompts(config: RunConfig, context: int) -> int:
    """The tokens that a context leaves beside a completion. Raises UserError for none."""
    room = context - config.sampling.max_new_tokens
    if room < 1:
        raise UserError(
            f"{config.sampling.max_new_tokens} leaves no room for a prompt in the models' context "
            f"of {context} tokens",
            where="sampling.max_new_tokens",
        )
    return room


def ignored_options(tokenizer: Any, prompts: Sequence[Prompt]) -> list[str]:
    """What rows and settings give to the chat template, and it does not read."""
    given: set[str] = set()
    for prompt in prompts:
        given |= {*prompt.options.variables, *(("tools",) if prompt.options.tools else ())}
    if not given:
        return []
    names = template_variables(template_source(tokenizer) or "")
    if given.issuperset(THINKING_SWITCHES):  # of prompts.thinking, which has a finding of its own
        given -= set(THINKING_SWITCHES)
    return [f"the chat template does not read {name}" for name in sorted(given - names)]


def unused_columns(
    data: DataConfig, section: str, tokenizer: Any, prompts: Sequence[Prompt]
) -> list[UnusedColumn]:
    """Columns that rows have beside their chat, and that the chat template would read."""
    names = template_variables(template_source(tokenizer) or "")
    if not names.isdisjoint(THINKING_SWITCHES):
        names |= set(THINKING_SWITCHES)
    names -= {*RESERVED_ARGS, *data.columns.model_dump().values()}
    names -= set(fields_of(data.prompt_template or ""))
    rows: Counter[str] = Counter()
    for prompt in prompts:
        if prompt.messages is not None:
            for name in names & prompt.row.keys() - prompt.options.variables.keys():
                rows[name] += _is_variable(name, prompt.row[name])
    column = data.columns.template_args
    return [UnusedColumn(name, section, n, column) for name, n in sorted(rows.items()) if n]


def _is_variable(name: str, value: Any) -> bool:
    """Whether a value of that column is meant for the template: `thinking` may also be a text."""
    if name in THINKING_SWITCHES and isinstance(value, str):
        return value.lower() in ("true", "false")
    return value is not None


def rendered(
    prompt: Prompt, data: DataConfig, tokenizer: Any, *, template: str | None, system: str | None
) -> tuple[str, tuple[int, ...]]:
    """The prompt as a teacher reads it: `rendered_text` and its ids."""
    if template is None and system is None:
        return prompt.text, prompt.ids
    text = rendered_text(prompt, data, tokenizer, template=template, system=system)
    return text, prompt_ids(tokenizer, [text], chat=prompt.messages is not None)[0]


def rendered_text(
    prompt: Prompt, data: DataConfig, tokenizer: Any, *, template: str | None, system: str | None
) -> str:
    """What a teacher reads in the prompt's place, the student's own without either template.

    `template`, over the prompt's row, replaces a plain prompt's text or the content of a chat's
    last user message; `system` replaces a chat's system message, or becomes it. Raises UserError
    for unknown fields and for a system message of a plain prompt.
    """
    if template is None and system is None:
        return prompt.text
    if prompt.messages is None:
        if system is not None:
            raise UserError(
                "only chat prompts have a system message; set prompts.chat",
                where="teacher.system",
            )
        return render(template or "", prompt.row, where="teacher.prompt")
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
    return rendered_chat(tokenizer, messages, where="teacher.prompt", options=options)


def chat_text(tokenizer: Any, messages: Sequence[Message], data: DataConfig) -> str:
    """A conversation as the student reads it before its next reply. Raises UserError where the
    chat template refuses the messages.
    """
    return rendered_chat(
        tokenizer,
        with_default_system(messages, data),
        where="conversations",
        options=options_of(data),
    )


@dataclass(frozen=True)
class PromptBuilder:
    """Renders and tokenizes drafts; `what` and `path` name the set and its section."""

    data: DataConfig
    tokenizer: Any
    room: int  # tokens that the context leaves for a prompt
    what: str
    path: str
    say: Say = lambda _: None
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
                where = drafts[prompt.number - first].where
                self._check_ids(prompt, ids, where)
                if self._fits(ids, where):
                    kept.append(replace(prompt, ids=ids))
        self._tell_dropped(len(made), len(made) - len(kept))
        return sorted(kept, key=lambda p: p.number)

    @property
    def limit(self) -> int:
        """The most tokens that a prompt may have."""
        return min(self.room, self.data.max_prompt_tokens or self.room)

    def prompt(self, draft: Draft, number: int) -> Prompt:
        """One prompt, however long. Raises UserError as for a run."""
        prompt = self._rendered(draft, number)
        [ids] = prompt_ids(self.tokenizer, [prompt.text], chat=prompt.messages is not None)
        self._check_ids(prompt, ids, draft.where)
        return replace(prompt, ids=ids)

    def _rendered(self, draft: Draft, number: int) -> Prompt:
        if draft.messages is None:
            text, completion = draft.text or "", draft.completion_text
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
        messages = with_default_system(messages, self.data)
        options = draft.options.over(options_of(self.data))
        text = rendered_chat(self.tokenizer, messages, where=draft.where, options=options)
        completion = draft.completion_text
        if self.given and draft.completion is None and draft.reply is not None:
            completion = rendered_reply(
                self.tokenizer, messages, draft.reply, where=draft.where, options=options
            )
        chat = tuple(messages)
        return Prompt(number, text, (), draft.answer, draft.row, chat, completion, options)

    def _check_ids(self, prompt: Prompt, ids: Sequence[int], where: str) -> None:
        """Raises UserError where there are none, and for a token that a model has no row for."""
        if not ids:
            raise bad_data(where, "the prompt has no tokens")
        if self.vocab is None:
            return
        given = prompt.completion if self.given else None
        if given and len(self.tokenizer) > self.vocab:
            ids = [*ids, *text_ids(self.tokenizer, given)]
        largest = max(ids)
        if largest >= self.vocab:
            raise bad_data(
                where,
                f"token {self.tokenizer.convert_ids_to_tokens(largest)!r} has id {largest}, beyond "
                f"the {self.vocab} ids that the models share; resize the smaller embedding, or "
                "use the tokenizer that it was trained with",
            )

    def _fits(self, ids: Sequence[int], where: str) -> bool:
        limit = self.limit
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
