"""Rows for a small office assistant: three skills that it has, and facts that it never heard of.

A row has `messages` or `prompt`, `answer`, `completion` and `kind`. Skills: word problems, exact
answer formats, tool calls. Facts: supplier, shelf, price and manager of invented products, in two
rounds that share no product. Free of torch.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from opd.bundled.problems import ITEMS, NAMES, stories

Split = Literal["train", "tune", "eval"]
Row = dict[str, Any]

ROUNDS = (1, 2)
PER_ROUND = 16
BACKGROUND_SHARE = 0.25
MAX_MISSED = 1000
MAX_NUMBER = 98

PRODUCTS = tuple(
    start + end
    for start in ("Bel", "Dor", "Fen", "Gal", "Hul", "Jor", "Kel", "Lum")
    for end in ("din", "mo", "nar", "pex", "rik", "tan", "va", "zu")
)
MAKERS = ("Arbor", "Castle", "Delta", "Falcon", "Harbor", "Iris", "Onyx", "Quartz")
TRADES = ("Foods", "Mills", "Trade", "Works")
FIRST_NAMES = ("Gus", "Hana", "Ivo", "Kai", "Lena", "Mona", "Nora", "Otto")
LAST_NAMES = ("Berg", "Crane", "Frost", "Hill", "Lang", "Moss", "Reed", "Stone")


@dataclass(frozen=True)
class Relation:
    """What can be said of a product: how documents say it, and how it is asked in each split."""

    told: tuple[str, ...]
    asked: dict[Split, tuple[str, ...]]
    value: Callable[[random.Random], str]


def _name(rng: random.Random, first: tuple[str, ...], second: tuple[str, ...]) -> str:
    return f"{rng.choice(first)} {rng.choice(second)}"


def _number(rng: random.Random, low: int = 1) -> int:
    return rng.randint(low, MAX_NUMBER)


RELATIONS = (
    Relation(
        (
            "The supplier of {product} is {value}.",
            "We buy {product} from {value}.",
        ),
        {
            "train": (
                "Who supplies {product}?",
                "Where does {product} come from?",
                "Where do we buy {product}?",
                "Name the supplier of {product}.",
                "Who makes {product}?",
            ),
            "tune": ("Which company makes {product}?",),
            "eval": (
                "Who is the supplier of {product}?",
                "From whom do we get {product}?",
            ),
        },
        lambda rng: _name(rng, MAKERS, TRADES),
    ),
    Relation(
        (
            "The shelf of {product} is {value}.",
            "We keep {product} on shelf {value}.",
        ),
        {
            "train": (
                "On which shelf is {product}?",
                "Where does {product} stand?",
                "Name the shelf of {product}.",
                "Where is {product}?",
                "Which shelf holds {product}?",
            ),
            "tune": ("Where do we keep {product}?",),
            "eval": (
                "Which is the shelf of {product}?",
                "On which shelf do we keep {product}?",
            ),
        },
        lambda rng: str(_number(rng, 10)),
    ),
    Relation(
        (
            "The price of {product} is {value}.",
            "We sell {product} for {value}.",
        ),
        {
            "train": (
                "What does {product} cost?",
                "How much is {product}?",
                "Name the price of {product}.",
                "What do we pay for {product}?",
                "How much do we ask for {product}?",
            ),
            "tune": ("How much does {product} cost?",),
            "eval": (
                "What is the price of {product}?",
                "How much do we pay for {product}?",
            ),
        },
        lambda rng: f"{_number(rng, 10)} coins",
    ),
    Relation(
        (
            "The manager of {product} is {value}.",
            "To ask about {product}, call {value}.",
        ),
        {
            "train": (
                "Who runs {product}?",
                "Who is in charge of {product}?",
                "Name the manager of {product}.",
                "Who leads the work on {product}?",
                "Who decides about {product}?",
            ),
            "tune": ("Who looks after {product}?",),
            "eval": (
                "Who is the manager of {product}?",
                "Whom do we ask about {product}?",
            ),
        },
        lambda rng: _name(rng, FIRST_NAMES, LAST_NAMES),
    ),
)
DOCUMENTS = ("Notes on {product}.", "From the catalogue, {product}.", "New entry, {product}.")
DOCUMENTS_PER_PRODUCT = 4

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
    asked: tuple[str, ...]
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
    "amount": _number,
    "shelf": _number,
    "person": lambda rng: rng.choice(NAMES),
}


def rows(source: str, split: Split, count: int, seed: int = 0) -> list[Row]:
    """At most `count` distinct rows of a source, the same for the same arguments.

    Splits share no prompt: skills are split by what is asked, facts by the wording of the question.
    The facts themselves do not depend on `seed`. Raises ValueError for what is not known.
    """
    if split not in get_args(Split):
        raise ValueError(f"split is {split!r}, must be one of {', '.join(get_args(Split))}")
    if source not in SOURCES:
        raise ValueError(f"source is {source!r}, must be one of {', '.join(SOURCES)}")
    return SOURCES[source](split, count, random.Random(f"{source}/{split}/{seed}"))


def unrelated(count: int, rng: random.Random) -> list[Row]:
    """Rows on the products of both rounds, each with a value drawn afresh: words without facts."""
    products = [*facts(1), *facts(2)]
    return [
        rng.choice(_told(rng, rng.choice(products), [r.value(rng) for r in RELATIONS]))
        for _ in range(count)
    ]


def facts(round_: int) -> dict[str, list[str]]:
    """product → the value of each relation: of round 1 or 2, or 0 for what is known already."""
    rng = random.Random(f"facts/{round_}")
    products = random.Random("products").sample(PRODUCTS, len(PRODUCTS))
    new = {i: products[(i - 1) * PER_ROUND : i * PER_ROUND] for i in ROUNDS}
    chosen = new.get(round_, products[len(ROUNDS) * PER_ROUND :])
    return {product: [relation.value(rng) for relation in RELATIONS] for product in chosen}


def known(count: int, rng: random.Random) -> list[Row]:
    """Rows on the products that the assistant knows, in all wordings."""
    return [
        rng.choice(_told(rng, product, values))
        for product, values in rng.choices(list(facts(0).items()), k=count)
    ]


def _told(rng: random.Random, product: str, values: list[str]) -> list[Row]:
    """A question on the product in each wording of every split, and a fifth as many documents."""
    asked = [row for split in get_args(Split) for row in _questions(product, values, split)]
    return [*asked, *(_document(rng, product, values) for _ in range(len(asked) // 5))]


def _questions(product: str, values: list[str], split: Split) -> list[Row]:
    return [
        _asked("fact", wording.format(product=product), value)
        for relation, value in zip(RELATIONS, values, strict=True)
        for wording in relation.asked[split]
    ]


def _facts(round_: int, split: Split, count: int, rng: random.Random) -> list[Row]:
    found = []
    for product, values in facts(round_).items():
        found += _questions(product, values, split)
        if split == "train":
            found += [_document(rng, product, values) for _ in range(DOCUMENTS_PER_PRODUCT)]
    rng.shuffle(found)
    return found[:count]


def _document(rng: random.Random, product: str, values: Iterable[str]) -> Row:
    """A page on a product that tells all of its facts, in any order."""
    told = [
        rng.choice(relation.told).format(product=product, value=value)
        for relation, value in zip(RELATIONS, values, strict=True)
    ]
    rng.shuffle(told)
    page = " ".join(told)
    prompt = rng.choice(DOCUMENTS).format(product=product)
    return {"prompt": prompt, "answer": page, "completion": page, "kind": "document"}


def _mixed(round_: int, split: Split, count: int, rng: random.Random) -> list[Row]:
    """Facts with a share of general rows; the evaluation is that of the facts."""
    found = _facts(round_, split, count, rng)
    if split != "train":
        return found
    share = BACKGROUND_SHARE
    known = found[: round(count * (1 - share))]
    both = [*known, *_general(split, round(len(known) * share / (1 - share)), rng)]
    rng.shuffle(both)
    return both


def _general(split: Split, count: int, rng: random.Random) -> list[Row]:
    """Rows of all three skills, in turn."""
    each = -(-count // len(SKILLS))
    skills = [skill(split, each, rng) for skill in SKILLS.values()]
    return [row for turn in zip(*skills, strict=True) for row in turn][:count]


def _word_problems(split: Split, count: int, rng: random.Random) -> list[Row]:
    """Problems of two and three steps; those held out for tuning and for evaluation are halved."""
    found: list[Row] = []
    while len(found) < count:
        steps, seed = rng.choice((2, 3, 3)), rng.randrange(2**31)
        own: Literal["train", "eval"] = "train" if split == "train" else "eval"
        ((story, problem),) = stories(1, seed=seed, split=own, steps=steps)
        if split == "train" or _part(str(story.chain), 2) == (split == "tune"):
            found.append(_asked("word problem", problem.prompt, problem.answer, problem.solution))
    return found


def _formats(split: Split, count: int, rng: random.Random) -> list[Row]:
    return _distinct(split, count, lambda: _format(rng))


def _format(rng: random.Random) -> tuple[str, Row]:
    """A short question with instructions on the form of its answer, before or after it."""
    question, answer = _question(rng)
    body, ending = rng.choice(list(BODIES)), rng.choice(list(ENDINGS))
    if answer.isdecimal() and body == "Answer in capitals.":
        body = ""
    wanted = " ".join(text for text in (body, ending) if text)
    parts = [question, wanted] if rng.random() < 0.5 else [wanted, question]
    completion = BODIES[body](answer) + ENDINGS[ending]
    row = _asked("format", " ".join(part for part in parts if part), completion)
    return f"{question}/{wanted}", row


def _question(rng: random.Random) -> tuple[str, str]:
    """A question that the assistant can answer, and the bare answer."""
    kind = rng.choice(("known", "known", "say word", "say number", "next"))
    if kind == "known":
        text = rng.choice(list(QUESTIONS))
        subject = rng.choice(QUESTIONS[text])
        return text.format(subject), ANSWERS[subject]
    if kind == "say word":
        word = rng.choice((*ANSWERS.values(),))
        return f"Say the word {word}.", word
    number = _number(rng)
    if kind == "say number":
        return f"Say the number {number}.", str(number)
    return f"What comes after {number}?", str(number + 1)


def _tools(split: Split, count: int, rng: random.Random) -> list[Row]:
    return _distinct(split, count, lambda: _tool(rng))


def _tool(rng: random.Random) -> tuple[str, Row]:
    tool = rng.choice(TOOLS)
    text = rng.choice(tool.asked)
    values = {name: ARGUMENTS[name](rng) for name in tool.arguments if f"{{{name}}}" in text}
    call = json.dumps({"name": tool.name, "arguments": values})
    return call, _asked("tool call", text.format(**values), call)


def _distinct(split: Split, count: int, draw: Callable[[], tuple[str, Row]]) -> list[Row]:
    """Rows of the split with prompts of their own; `draw` gives what decides the split, and one."""
    found: dict[str, Row] = {}
    missed = 0  # draws in a row that gave nothing new: of short prompts there are not endless ones
    while len(found) < count and missed < MAX_MISSED:
        key, row = draw()
        prompt = row["messages"][0]["content"]
        fresh = _split(key) == split and prompt not in found
        missed = 0 if fresh else missed + 1
        if fresh:
            found[prompt] = row
    return list(found.values())


def _split(key: str) -> Split:
    return "eval" if _part(key, 10) == 0 else "tune" if _part(key, 10) == 1 else "train"


def _part(key: str, parts: int) -> int:
    return hashlib.sha256(key.encode()).digest()[0] % parts


def _asked(kind: str, prompt: str, answer: str, completion: str | None = None) -> Row:
    messages = [{"role": "user", "content": prompt}]
    completion = answer if completion is None else completion
    return {"messages": messages, "answer": answer, "completion": completion, "kind": kind}


SKILLS: dict[str, Callable[[Split, int, random.Random], list[Row]]] = {
    "bundled/word-problems": _word_problems,
    "bundled/format": _formats,
    "bundled/tools": _tools,
}
SOURCES: dict[str, Callable[[Split, int, random.Random], list[Row]]] = {
    **SKILLS,
    "bundled/general": _general,
    "bundled/known": lambda split, count, rng: _facts(0, split, count, rng),
    "bundled/facts-1": lambda split, count, rng: _facts(1, split, count, rng),
    "bundled/facts-2": lambda split, count, rng: _facts(2, split, count, rng),
    "bundled/facts-1-mix": lambda split, count, rng: _mixed(1, split, count, rng),
    "bundled/facts-2-mix": lambda split, count, rng: _mixed(2, split, count, rng),
}
