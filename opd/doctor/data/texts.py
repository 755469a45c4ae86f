"""Special tokens in the data's texts: written twice, in the middle, or across a prompt's end."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from opd.config.run import RunConfig
from opd.data.prompts import Prompt
from opd.doctor.findings import Finding, quoted
from opd.doctor.models import LocalModel
from opd.models.encoding import continuation, special_around, split_end, text_ids
from opd.models.stop_ids import led, reply_lead
from opd.models.tokenizers import special_ids, unknown_id

LOOKED_AT = 256  # training prompts


def check_texts(
    config: RunConfig, student: LocalModel, train: Sequence[Prompt]
) -> Iterator[Finding]:
    """What the student's tokenizer makes of the first training prompts and given completions."""
    prompts = train[:LOOKED_AT]
    yield from _appended(student)
    yield from _started_twice(student, prompts)
    yield from _unknown(student, prompts)
    yield from _rendered_twice(student, prompts)
    yield from _ended_prompts(student, prompts)
    if config.author == "given":
        yield from _completions(student, prompts)


def _appended(student: LocalModel) -> Iterator[Finding]:
    _, behind = special_around(student.tokenizer)
    if behind:
        names = ", ".join(map(student.name, behind))
        yield Finding(
            "tokenizer-appends",
            "info",
            f"The tokenizer appends {names} to every text",
            "A prompt that ends with it reads as a finished text. It is left out of prompts and "
            "completions here; other programs that use this tokenizer may keep it.",
            evidence={"appended": [student.name(i) for i in behind]},
        )


def _started_twice(student: LocalModel, prompts: Sequence[Prompt]) -> Iterator[Finding]:
    """Texts that begin with the special token which is put before them anyway."""
    before, _ = special_around(student.tokenizer)
    start = before[0] if before else student.tokenizer.bos_token_id
    twice = [
        p
        for p in prompts
        if start is not None
        and [*(before if p.messages is None else []), *text_ids(student.tokenizer, p.text)][:2]
        == [start, start]
    ]
    if twice:
        yield _on_prompts(
            "start-twice",
            "warning",
            f"{len(twice)} of {len(prompts)} prompts begin with {student.name(start)} twice",
            "Their text contains it, and the tokenizer or the chat template writes it too. It is "
            "kept once.",
            "Remove it from the data's texts; for prompts that were rendered elsewhere, give the "
            "messages and set prompts.chat.",
            twice,
        )


def _unknown(student: LocalModel, prompts: Sequence[Prompt]) -> Iterator[Finding]:
    """Prompts with text that the vocabulary lacks: no model can read what stands there."""
    unknown = unknown_id(student.tokenizer)
    affected = [p for p in prompts if unknown is not None and unknown in p.ids]
    if affected:
        tokens = sum(len(p.ids) for p in affected)
        lost = sum(p.ids.count(unknown) for p in affected)
        yield _on_prompts(
            "prompt-unknown-tokens",
            "warning",
            f"{len(affected)} of {len(prompts)} prompts hold text that the tokenizer does not know",
            f"{lost:,} of their {tokens:,} tokens are {student.name(unknown or 0)}: both models "
            "read no more than that something stood there.",
            "Use models whose tokenizer knows the data's words or falls back on bytes; "
            "`opd prompts` shows the prompts as they are read.",
            affected,
        )


def _rendered_twice(student: LocalModel, prompts: Sequence[Prompt]) -> Iterator[Finding]:
    """Chats whose messages contain the tokens that the template itself writes around messages."""
    special = special_ids(student.tokenizer)
    twice = [
        p
        for p in prompts
        for m in p.messages or ()
        if isinstance(m.get("content"), str)
        and not special.isdisjoint(text_ids(student.tokenizer, m["content"]))
    ]
    if twice:
        yield _on_prompts(
            "special-in-messages",
            "warning",
            f"{len(twice)} messages contain special tokens",
            f"Of {len(prompts)} prompts. The chat template writes such tokens around messages; in "
            "their texts they end or open one, as in a prompt that was rendered twice.",
            "Remove them from the data's texts, or set prompts.chat to false if the prompts are "
            "already rendered.",
            twice,
        )


def _ended_prompts(student: LocalModel, prompts: Sequence[Prompt]) -> Iterator[Finding]:
    ended = [p for p in prompts if p.messages is None and p.ids[-1] in student.stops]
    if ended:
        yield _on_prompts(
            "prompt-ends",
            "warning",
            f"{len(ended)} of {len(prompts)} prompts end with a stop token",
            f"After {student.name(ended[0].ids[-1])} a text is finished; what a model writes then "
            "does not continue the prompt.",
            "Remove it from the prompts' texts.",
            ended,
        )


@dataclass(frozen=True)
class _GivenTexts:
    """Prompts by what their given completions are, as the run encodes them."""

    led: list[Prompt] = field(default_factory=list)
    ended: list[Prompt] = field(default_factory=list)
    inside: list[Prompt] = field(default_factory=list)
    merged: list[Prompt] = field(default_factory=list)

    def add(self, student: LocalModel, prompt: Prompt, completion: str, lead: str) -> None:
        text = completion
        if prompt.messages is not None:
            text = led(student.tokenizer, prompt.text, text, lead)
        if text.removesuffix(completion).strip():
            self.led.append(prompt)
        made = continuation(student.tokenizer, prompt.text, text)
        body, end = split_end(student.tokenizer, made.ids, student.stops)
        if end is not None:
            self.ended.append(prompt)
        if not set(student.stops).isdisjoint(body):
            self.inside.append(prompt)
        if made.merges:
            self.merged.append(prompt)


def _completions(student: LocalModel, prompts: Sequence[Prompt]) -> Iterator[Finding]:
    """What the given completions contain beside plain text."""
    given, lead = _GivenTexts(), reply_lead(student.tokenizer)
    for prompt in prompts:
        if prompt.completion:
            given.add(student, prompt, prompt.completion, lead)
    count, end_name = len(prompts), student.name(student.stops[0]) if student.stops else ""
    if given.ended:
        yield _on_prompts(
            "completion-ended",
            "info",
            f"{len(given.ended)} of {count} given completions already end with a stop token",
            f"It is kept once; the others get {end_name}.",
            "",
            given.ended,
        )
    if given.led:
        yield _on_prompts(
            "reply-lead",
            "info",
            f"The chat template writes {lead!r} before {len(given.led)} of {count} replies",
            "It stands between the generation prompt and an assistant's text, so the student is "
            "trained to write it first.",
            "",
            given.led,
        )
    if given.inside:
        yield _on_prompts(
            "stop-inside",
            "warning",
            f"{len(given.inside)} of {count} given completions have a stop token before their end",
            "The student is trained on what follows it, which it would never write: sampling stops "
            "there.",
            "Cut the completions at that token, or split conversations into one row per reply.",
            given.inside,
        )
    if given.merged:
        yield _on_prompts(
            "merged-boundary",
            "info",
            f"{len(given.merged)} of {count} given completions would share a token with a prompt",
            "The tokenizer joins the end of the prompt with the beginning of the completion. Here "
            "the completion begins a new token, as one that is sampled does.",
            "",
            given.merged,
        )


def _on_prompts(
    code: str,
    severity: Any,
    title: str,
    text: str,
    advice: str,
    prompts: Collection[Prompt],
) -> Finding:
    """A finding on some prompts, the first of them quoted."""
    first = next(iter(prompts))
    evidence = {"count": len(prompts), "first": first.number, "text": quoted(first.text)}
    if code in ("completion-ended", "reply-lead", "stop-inside", "merged-boundary"):
        evidence["completion"] = quoted(first.completion or "")
    return Finding(code, severity, title, text, advice, evidence)
