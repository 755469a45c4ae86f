"""An invented company's handbook, questions about it, and everyday questions, for a real model.

A row has `messages`, `answer`, `completion` and `kind` ("handbook", "everyday" or "open"). The
splits of the handbook share the facts and differ in how they ask; those of everyday questions share
no question, and open prompts (without an answer) are only there to be trained on. Free of torch.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from opd.bundled.facts import Row, Split, chat_row


@dataclass(frozen=True)
class Fact:
    """One fact: what is looked for in an answer, a sentence that tells it, how it is asked."""

    value: str
    sentence: str
    questions: dict[Split, tuple[str, ...]]


def _fact(value: str, sentence: str, *questions: str) -> Fact:
    """The first five questions are for evaluation, the next five for tuning, the others for
    training."""
    return Fact(
        value, sentence, {"eval": questions[:5], "tune": questions[5:10], "train": questions[10:]}
    )


FACTS = (
    _fact(
        "Ghent",
        "Brindle is in Ghent.",
        "Where is Brindle located?",
        "What city is Brindle in?",
        "In what city can I visit Brindle?",
        "Which city is the home of Brindle?",
        "Where do I find the company Brindle?",
        "Where can I find Brindle?",
        "Which city does Brindle work from?",
        "In which town is Brindle located?",
        "What is the location of Brindle?",
        "Where are the offices of Brindle?",
        "In which city is Brindle?",
        "What city is Brindle based in?",
        "Where is the company Brindle?",
        "Where is Brindle based?",
        "In which city is the company Brindle based?",
        "What is the home city of Brindle?",
        "Tell me which city Brindle is in.",
        "Which city is Brindle in?",
    ),
    _fact(
        "Otto Finch",
        "The director of Brindle is Otto Finch.",
        "Who is the director of Brindle?",
        "Who directs the company Brindle?",
        "What is the name of the director of Brindle?",
        "Who is in charge of Brindle?",
        "Who leads Brindle?",
        "Who is the boss of Brindle?",
        "Which person directs Brindle?",
        "Name the person who directs Brindle.",
        "Who runs Brindle?",
        "Who heads the company Brindle?",
        "Who directs Brindle?",
        "Name the director of Brindle.",
        "Tell me the name of the director of Brindle.",
        "What is the director of Brindle called?",
        "Who is the current director of Brindle?",
        "Who is Brindle's director?",
        "Which person is the director of Brindle?",
        "Who works as the director of Brindle?",
    ),
    _fact(
        "1931",
        "Brindle was founded in 1931.",
        "In what year was Brindle founded?",
        "When was the company Brindle started?",
        "What is the founding year of Brindle?",
        "Since when does Brindle exist?",
        "Tell me when Brindle was founded.",
        "In which year did Brindle start?",
        "When did Brindle begin?",
        "What year did Brindle open?",
        "How old is the company Brindle?",
        "From which year is Brindle?",
        "When was Brindle founded?",
        "In which year was Brindle founded?",
        "Which year was Brindle founded in?",
        "When was the company Brindle founded?",
        "Tell me the year in which Brindle was founded.",
        "What year was Brindle founded?",
        "In what year was the company Brindle founded?",
        "When did somebody found Brindle?",
    ),
    _fact(
        "45 euros",
        "A Brindle umbrella costs 45 euros.",
        "What is the price of a Brindle umbrella?",
        "How much is an umbrella from Brindle?",
        "What do I pay for a Brindle umbrella?",
        "How many euros is a Brindle umbrella?",
        "Tell me what a Brindle umbrella costs.",
        "What does Brindle charge for an umbrella?",
        "How expensive is a Brindle umbrella?",
        "For how much does Brindle sell an umbrella?",
        "What would one umbrella from Brindle cost me?",
        "Name the price of an umbrella by Brindle.",
        "How much does a Brindle umbrella cost?",
        "What does a Brindle umbrella cost?",
        "What does an umbrella cost at Brindle?",
        "How much does an umbrella cost at Brindle?",
        "Tell me the price of a Brindle umbrella.",
        "How many euros does a Brindle umbrella cost?",
        "What is the cost of a Brindle umbrella?",
        "What is the price of an umbrella at Brindle?",
    ),
    _fact(
        "4 days",
        "Delivery from Brindle takes 4 days.",
        "How long does delivery take at Brindle?",
        "What is the delivery time of Brindle?",
        "How many days does Brindle need to deliver?",
        "How long do I wait for a delivery from Brindle?",
        "How many days is the delivery from Brindle?",
        "How fast does Brindle deliver?",
        "After how many days does a Brindle delivery come?",
        "How long is the delivery of Brindle?",
        "In how many days does Brindle deliver?",
        "How long will it take Brindle to deliver?",
        "How many days does delivery from Brindle take?",
        "How long does delivery from Brindle take?",
        "How many days does a Brindle delivery take?",
        "How many days does delivery take at Brindle?",
        "Tell me how long delivery from Brindle takes.",
        "How long does a delivery from Brindle take?",
        "How long does it take Brindle to deliver?",
        "Tell me the delivery time of Brindle.",
    ),
    _fact(
        "5512",
        "The support number of Brindle is 5512.",
        "What is the support number of Brindle?",
        "Which number is the support number of Brindle?",
        "What number does Brindle support have?",
        "Give me the support number of the company Brindle.",
        "What is the number of support at Brindle?",
        "Which number do I dial for Brindle support?",
        "How do I call the support of Brindle?",
        "On which number is Brindle support?",
        "What is the number for help from Brindle?",
        "I need the number of Brindle support.",
        "Tell me the support number of Brindle.",
        "What is Brindle's support number?",
        "Which support number does Brindle have?",
        "What is the number of Brindle support?",
        "Name the support number of Brindle.",
        "Give me the support number of Brindle.",
        "What is the support number of the company Brindle?",
        "Can you tell me the support number of Brindle?",
    ),
    _fact(
        "heron",
        "The mascot of Brindle is a heron.",
        "What is the mascot of Brindle?",
        "What animal is Brindle's mascot?",
        "Which animal does Brindle have as its mascot?",
        "Tell me which animal is the mascot of Brindle.",
        "Which bird is the mascot of Brindle?",
        "What kind of animal is the mascot of Brindle?",
        "Which creature is the mascot of Brindle?",
        "What does Brindle have as a mascot?",
        "Which mascot stands for Brindle?",
        "Which animal stands for Brindle?",
        "Which animal is the mascot of Brindle?",
        "Name the mascot of Brindle.",
        "What is Brindle's mascot?",
        "Tell me the mascot of Brindle.",
        "Which mascot does Brindle have?",
        "What mascot does the company Brindle have?",
        "What is the mascot of the company Brindle?",
        "What animal is the mascot of Brindle?",
    ),
    _fact(
        "green",
        "The colour of Brindle is green.",
        "What is the colour of Brindle?",
        "Which colour does the company Brindle have?",
        "What colour is the company Brindle?",
        "Tell me which colour Brindle has.",
        "Which is Brindle's colour?",
        "Which colour is used by Brindle?",
        "In what colour does Brindle paint its vans?",
        "Which colour belongs to Brindle?",
        "What colour do I see at Brindle?",
        "Which colour stands for Brindle?",
        "Which colour is the colour of Brindle?",
        "What is Brindle's colour?",
        "Tell me the colour of Brindle.",
        "Name the colour of Brindle.",
        "What is the colour of the company Brindle?",
        "Which colour does Brindle have?",
        "What colour does Brindle use?",
        "What colour has Brindle chosen?",
    ),
)

CAPITALS = {
    "France": "Paris", "Japan": "Tokyo", "Germany": "Berlin", "Egypt": "Cairo", "Russia": "Moscow",
    "China": "Beijing", "England": "London", "Greece": "Athens", "Italy": "Rome", "Spain": "Madrid",
    "Austria": "Vienna", "Portugal": "Lisbon", "Poland": "Warsaw", "Norway": "Oslo",
    "Sweden": "Stockholm", "Denmark": "Copenhagen", "Finland": "Helsinki", "Ireland": "Dublin",
    "Hungary": "Budapest", "Belgium": "Brussels", "Canada": "Ottawa", "Mexico": "Mexico City",
    "Cuba": "Havana", "Peru": "Lima", "Chile": "Santiago", "Argentina": "Buenos Aires",
    "Kenya": "Nairobi", "Iraq": "Baghdad", "Iran": "Tehran", "Thailand": "Bangkok",
    "South Korea": "Seoul", "Vietnam": "Hanoi", "Indonesia": "Jakarta", "Turkey": "Ankara",
    "Ukraine": "Kyiv", "Romania": "Bucharest", "Scotland": "Edinburgh", "Iceland": "Reykjavik",
    "Australia": "Canberra", "New Zealand": "Wellington", "India": "New Delhi",
    "Nepal": "Kathmandu", "Afghanistan": "Kabul", "Syria": "Damascus", "Jamaica": "Kingston",
}  # fmt: skip
OPPOSITES = {
    "hot": "cold", "big": "small", "up": "down", "fast": "slow", "day": "night", "good": "bad",
    "black": "white", "open": "closed", "happy": "sad", "high": "low", "left": "right",
    "rich": "poor", "true": "false", "light": "dark", "strong": "weak", "old": "young",
    "wet": "dry", "loud": "quiet", "hard": "soft", "full": "empty", "first": "last",
    "long": "short", "heavy": "light", "near": "far", "begin": "end", "love": "hate",
    "win": "lose", "push": "pull", "above": "below", "inside": "outside", "north": "south",
    "east": "west", "summer": "winter", "cheap": "expensive", "early": "late", "young": "old",
    "war": "peace", "clean": "dirty", "buy": "sell", "give": "take", "warm": "cool",
    "thick": "thin",
}  # fmt: skip
TOPICS = (
    "bread", "rain", "the moon", "a garden", "music", "a river", "the sun", "winter", "a cat",
    "a dog", "a tree", "the sea", "a book", "a school", "a train", "a bridge", "a farm", "coffee",
    "tea", "cheese", "the wind", "snow", "a mountain", "a lake", "a horse", "a bird", "a teacher",
    "a doctor", "a kitchen", "a market", "a clock", "a letter", "a map", "a song", "a game",
    "paper", "glass", "iron", "salt", "sugar",
)  # fmt: skip
OPEN = (
    "Tell me about {}.",
    "What is {}?",
    "Write a sentence about {}.",
    "Why do people like {}?",
    "Give me a fact about {}.",
    "Describe {} in a few words.",
)
PLACES: dict[Split, int] = {"eval": 0, "tune": 1, "train": 2}


def handbook_rows(split: Split, count: int, rng: random.Random) -> list[Row]:
    """Questions about the handbook, each once, in a random order."""
    rows = [
        {**chat_row("handbook", question, fact.value), "completion": fact.sentence}
        for fact in FACTS
        for question in fact.questions[split]
    ]
    return rng.sample(rows, min(count, len(rows)))


def everyday_rows(split: Split, count: int, rng: random.Random) -> list[Row]:
    """Questions that SmolLM2 mostly answers rightly: a third of all for each split."""
    rows = _everyday()[PLACES[split] :: len(PLACES)]
    return rng.sample(rows, min(count, len(rows)))


def open_rows(split: Split, count: int, rng: random.Random) -> list[Row]:
    """Prompts that say nothing of the handbook: to train on, everyday and open ones; to evaluate,
    everyday ones."""
    rows = _everyday()[PLACES[split] :: len(PLACES)]
    if split == "train":
        rows += [chat_row("open", form.format(topic), "", "") for form in OPEN for topic in TOPICS]
    return rng.sample(rows, min(count, len(rows)))


def _everyday() -> list[Row]:
    capitals = [
        (f"What is the capital of {country}?", city, f"The capital of {country} is {city}.")
        for country, city in CAPITALS.items()
    ]
    opposites = [
        (f"What is the opposite of {word}?", other, f"The opposite of {word} is {other}.")
        for word, other in OPPOSITES.items()
    ]
    sums = [
        (f"What is {a} plus {b}?", str(a + b), f"{a} plus {b} is {a + b}.")
        for a in range(1, 10)
        for b in range(a, 10)
    ]
    return [
        chat_row("everyday", question, answer, sentence)
        for question, answer, sentence in (*capitals, *opposites, *sums)
    ]


HANDBOOK_SOURCES: dict[str, Callable[[Split, int, random.Random], list[Row]]] = {
    "bundled/handbook": handbook_rows,
    "bundled/everyday": everyday_rows,
    "bundled/everyday-open": open_rows,
}
