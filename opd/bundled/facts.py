"""Facts of invented products: supplier, shelf, price and manager, in rounds that share no product.

The bundled assistant knows those of round 0; rounds 1 and 2 are new to it. A row has `messages` or
`prompt`, `answer`, `completion` and `kind` ("fact" or "document"). Free of torch.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

Split = Literal["train", "tune", "eval"]
Row = dict[str, Any]

ROUNDS = (1, 2)
PER_ROUND = 16
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

    statements: tuple[str, ...]
    questions: dict[Split, tuple[str, ...]]
    value: Callable[[random.Random], str]


def _name(rng: random.Random, first: tuple[str, ...], second: tuple[str, ...]) -> str:
    return f"{rng.choice(first)} {rng.choice(second)}"


def any_number(rng: random.Random, low: int = 1) -> int:
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
        lambda rng: str(any_number(rng, 10)),
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
        lambda rng: f"{any_number(rng, 10)} coins",
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


def facts(round_: int) -> dict[str, list[str]]:
    """product → the value of each relation: of round 1 or 2, or 0 for what is known already."""
    rng = random.Random(f"facts/{round_}")
    products = random.Random("products").sample(PRODUCTS, len(PRODUCTS))
    new = {i: products[(i - 1) * PER_ROUND : i * PER_ROUND] for i in ROUNDS}
    chosen = new.get(round_, products[len(ROUNDS) * PER_ROUND :])
    return {product: [relation.value(rng) for relation in RELATIONS] for product in chosen}


def known_rows(count: int, rng: random.Random) -> list[Row]:
    """Rows on the products that the assistant knows, in all wordings."""
    return [
        rng.choice(_rows_on(rng, product, values))
        for product, values in rng.choices(list(facts(0).items()), k=count)
    ]


def unrelated(count: int, rng: random.Random) -> list[Row]:
    """Rows on the products of both rounds, each with a value drawn afresh: words without facts."""
    products = [*facts(1), *facts(2)]
    return [
        rng.choice(_rows_on(rng, rng.choice(products), [r.value(rng) for r in RELATIONS]))
        for _ in range(count)
    ]


def _rows_on(rng: random.Random, product: str, values: list[str]) -> list[Row]:
    """A question on the product in each wording of every split, and a fifth as many documents."""
    questions = [row for split in get_args(Split) for row in _questions(product, values, split)]
    return [*questions, *(_document(rng, product, values) for _ in range(len(questions) // 5))]


def _questions(product: str, values: list[str], split: Split) -> list[Row]:
    return [
        chat_row("fact", wording.format(product=product), value)
        for relation, value in zip(RELATIONS, values, strict=True)
        for wording in relation.questions[split]
    ]


def fact_rows(round_: int, split: Split, count: int, rng: random.Random) -> list[Row]:
    rows = []
    for product, values in facts(round_).items():
        rows += _questions(product, values, split)
        if split == "train":
            rows += [_document(rng, product, values) for _ in range(DOCUMENTS_PER_PRODUCT)]
    rng.shuffle(rows)
    return rows[:count]


def _document(rng: random.Random, product: str, values: Iterable[str]) -> Row:
    """A page on a product that tells all of its facts, in any order."""
    sentences = [
        rng.choice(relation.statements).format(product=product, value=value)
        for relation, value in zip(RELATIONS, values, strict=True)
    ]
    rng.shuffle(sentences)
    page = " ".join(sentences)
    prompt = rng.choice(DOCUMENTS).format(product=product)
    return {"prompt": prompt, "answer": page, "completion": page, "kind": "document"}


def chat_row(kind: str, prompt: str, answer: str, completion: str | None = None) -> Row:
    messages = [{"role": "user", "content": prompt}]
    completion = answer if completion is None else completion
    return {"messages": messages, "answer": answer, "completion": completion, "kind": kind}
