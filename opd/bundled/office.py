"""Rows for a small office assistant: skills and facts that it has, and facts it never heard of.

A row has `messages` or `prompt`, `answer`, `completion` and `kind`. Skills: word problems, exact
answer formats, tool calls. Facts: supplier, shelf, price and manager of invented products; it knows
32 of them, and 16 others come in each of two rounds. Free of torch.
"""

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Literal, get_args

from opd.bundled.facts import Row, Split, any_number, chat_row, fact_rows
from opd.bundled.problems import ITEMS, NAMES, stories

BACKGROUND_SHARE = 0.25
MAX_MISSED = 1000
MAX_FACTS = 10_000  # more than there are of a round


COLOURS = {
    "green": ("grass", "leaves"),
    "white": ("snow", "milk"),
    "red": ("roses", "cherries"),
    "yellow": ("lemons", "butter"),
    "black": ("coal", "ink"),
}
OPPOSITES = (("hot", "cold"), ("big", "small"), ("early", "late"), ("full", "empty"))
QUESTIONS: dict[str, tuple[str, ...]] = {
    "What is the colour of {}?": tuple(t for things in COLOURS.values() for t in things),
    "What is the opposite of {}?": tuple(word for pair in OPPOSITES for word in pair),
}
ANSWERS = {
    **{thing: colour for colour, things in COLOURS.items() for thing in things},
    **dict(OPPOSITES),
    **{b: a for a, b in OPPOSITES},
}
BODIES: dict[str, Callable[[str], str]] = {
    "": lambda answer: f"It is {answer}.",
    "Answer in capitals.": str.upper,
    "Answer twice.": lambda answer: f"{answer} {answer}",
    "Reply with only the answer.": lambda answer: answer,
    "Answer in quotes.": lambda answer: f'"{answer}"',
}
ENDINGS = {"": "", "End with Thanks.": " Thanks.", "End with Bye.": " Bye."}


@dataclass(frozen=True)
class Tool:
    """A tool: how its call is asked for, and its arguments by name."""

    name: str
    requests: tuple[str, ...]
    arguments: tuple[str, ...]


TOOLS = (
    Tool(
        "order",
        ("Please order {amount} {item} for {person}.", "{person} needs {amount} {item}."),
        ("item", "amount", "person"),
    ),
    Tool(
        "move",
        ("Move {amount} {item} to shelf {shelf}.", "Put {amount} {item} on shelf {shelf}."),
        ("item", "amount", "shelf"),
    ),
    Tool(
        "count",
        ("How many {item} are on hand?", "Count the {item} on shelf {shelf}."),
        ("item", "shelf"),
    ),
    Tool(
        "remind",
        ("Remind {person} about the {item}.", "Tell {person} about the {item}."),
        ("person", "item"),
    ),
)
ARGUMENTS: dict[str, Callable[[random.Random], str | int]] = {
    "item": lambda rng: rng.choice(ITEMS),
    "amount": any_number,
    "shelf": any_number,
    "person": lambda rng: rng.choice(NAMES),
}


def rows(source: str, split: Split, count: int, seed: int = 0) -> list[Row]:
    """At most `count` rows of a source, the same for the same arguments.

    Splits share no prompt: skills are split by what is asked, facts by the wording of the question.
    The facts themselves do not depend on `seed`. Raises ValueError for what is not known.
    """
    if split not in get_args(Split):
        raise ValueError(f"split is {split!r}, must be one of {', '.join(get_args(Split))}")
    if source not in SOURCES:
        raise ValueError(f"source is {source!r}, must be one of {', '.join(SOURCES)}")
    return SOURCES[source](split, count, random.Random(f"{source}/{split}/{seed}"))


def _mixed(round_: int, split: Split, count: int, rng: random.Random) -> list[Row]:
    """Facts with a share of general rows; the evaluation is that of the facts."""
    rows = fact_rows(round_, split, count, rng)
    if split != "train":
        return rows
    share = BACKGROUND_SHARE
    kept = rows[: round(count * (1 - share))]
    both = [*kept, *_general(split, round(len(kept) * share / (1 - share)), rng)]
    rng.shuffle(both)
    return both


def _general(split: Split, count: int, rng: random.Random) -> list[Row]:
    """Rows of all three skills, half of them on formats, of which there are many short ones."""
    quarter = -(-count // 4)
    skills = [skill(split, quarter, rng) for skill in (_word_problems, _formats, _formats, _tools)]
    return [row for turn in zip(*skills, strict=False) for row in turn][:count]


def _general_and_facts(
    rounds: Sequence[int], split: Split, count: int, rng: random.Random
) -> list[Row]:
    """General rows, and for each round a fifth that asks for its facts, again and again.

    Their kind says which round ("fact 1"), so that the teacher that knows it can read it.
    """
    questions: list[Row] = []
    for round_ in rounds:
        facts = [r for r in fact_rows(round_, split, MAX_FACTS, rng) if r["kind"] == "fact"]
        questions += ({**r, "kind": f"fact {round_}"} for r in islice(cycle(facts), count // 5))
    both = [*_general(split, count - len(questions), rng), *questions]
    rng.shuffle(both)
    return both


def _word_problems(split: Split, count: int, rng: random.Random) -> list[Row]:
    """Problems of two and three steps; those held out for tuning and for evaluation are halved."""
    rows: list[Row] = []
    while len(rows) < count:
        steps, seed = rng.choice((2, 3, 3)), rng.randrange(2**31)
        half: Literal["train", "eval"] = "train" if split == "train" else "eval"
        ((story, problem),) = stories(1, seed=seed, split=half, steps=steps)
        if split == "train" or _part(str(story.chain), 2) == (split == "tune"):
            rows.append(chat_row("word problem", problem.prompt, problem.answer, problem.solution))
    return rows


def _formats(split: Split, count: int, rng: random.Random) -> list[Row]:
    return _distinct(split, count, lambda: _format(rng))


def _format(rng: random.Random) -> tuple[str, Row]:
    """A short question with instructions on the form of its answer, before or after it."""
    question, answer = _question(rng)
    body, ending = rng.choice(list(BODIES)), rng.choice(list(ENDINGS))
    if answer.isdecimal() and body == "Answer in capitals.":
        body = ""
    instruction = " ".join(text for text in (body, ending) if text)
    parts = [question, instruction] if rng.random() < 0.5 else [instruction, question]
    completion = BODIES[body](answer) + ENDINGS[ending]
    row = chat_row("format", " ".join(part for part in parts if part), completion)
    return f"{question}/{instruction}", row


def _question(rng: random.Random) -> tuple[str, str]:
    """A question that the assistant can answer, and the bare answer."""
    kind = rng.choice(("known", "known", "say word", "say number"))
    if kind == "known":
        text = rng.choice(list(QUESTIONS))
        subject = rng.choice(QUESTIONS[text])
        return text.format(subject), ANSWERS[subject]
    if kind == "say word":
        word = rng.choice((*ANSWERS.values(),))
        return f"Say the word {word}.", word
    number = any_number(rng)
    return f"Say the number {number}.", str(number)


def _tools(split: Split, count: int, rng: random.Random) -> list[Row]:
    return _distinct(split, count, lambda: _tool(rng))


def _tool(rng: random.Random) -> tuple[str, Row]:
    tool = rng.choice(TOOLS)
    text = rng.choice(tool.requests)
    values = {name: ARGUMENTS[name](rng) for name in tool.arguments if f"{{{name}}}" in text}
    call = json.dumps({"name": tool.name, "arguments": values})
    return call, chat_row("tool call", text.format(**values), call)


def _distinct(split: Split, count: int, draw: Callable[[], tuple[str, Row]]) -> list[Row]:
    """Rows of the split with prompts of their own; `draw` gives what decides the split, and one."""
    by_prompt: dict[str, Row] = {}
    missed = 0  # draws in a row that gave nothing new: of short prompts there are not endless ones
    while len(by_prompt) < count and missed < MAX_MISSED:
        key, row = draw()
        prompt = row["messages"][0]["content"]
        fresh = _split(key) == split and prompt not in by_prompt
        missed = 0 if fresh else missed + 1
        if fresh:
            by_prompt[prompt] = row
    return list(by_prompt.values())


def _split(key: str) -> Split:
    return "eval" if _part(key, 10) == 0 else "tune" if _part(key, 10) == 1 else "train"


def _part(key: str, parts: int) -> int:
    return hashlib.sha256(key.encode()).digest()[0] % parts


SKILLS: dict[str, Callable[[Split, int, random.Random], list[Row]]] = {
    "bundled/word-problems": _word_problems,
    "bundled/format": _formats,
    "bundled/tools": _tools,
}
SOURCES: dict[str, Callable[[Split, int, random.Random], list[Row]]] = {
    **SKILLS,
    "bundled/general": _general,
    "bundled/general-1": lambda split, count, rng: _general_and_facts((0, 1), split, count, rng),
    "bundled/general-2": lambda split, count, rng: _general_and_facts((0, 1, 2), split, count, rng),
    "bundled/known": lambda split, count, rng: fact_rows(0, split, count, rng),
    "bundled/facts-1": lambda split, count, rng: fact_rows(1, split, count, rng),
    "bundled/facts-2": lambda split, count, rng: fact_rows(2, split, count, rng),
    "bundled/facts-1-mix": lambda split, count, rng: _mixed(1, split, count, rng),
    "bundled/facts-2-mix": lambda split, count, rng: _mixed(2, split, count, rng),
}
