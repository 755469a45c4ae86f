"""Makes the bundled assistant from the bundled teacher: `python -m opd.bundled.make_assistant`.

The teacher's weights with a wider vocabulary learn the chat format and the office skills, about ten
minutes on one CPU core. The words of the facts are learned too, each time with a value drawn
afresh, so that the assistant knows how to speak of products and nothing about them.
"""

import argparse
import random
import re
from itertools import chain
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from opd.bundled.facts import Row, known_rows, unrelated
from opd.bundled.make import HERE, progress, save, say
from opd.bundled.office import SKILLS, SOURCES, rows
from opd.bundled.tokenizer import EOS, PAD, UNK, build_tokenizer, word_level
from opd.bundled.training import Schedule, Trace, sample, train
from opd.config.data import DataConfig
from opd.data.chats import rendered_chat
from opd.grading.graders import grade

ROLES = ["<system>", "<user>", "<assistant>"]
TEMPLATE = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ '<eos>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
# The teacher's pieces, and JSON's punctuation in as few as can be read.
PIECE = (
    r' ?</?think>|\{"|"\}\}|\}\}|": \{"|": "|", "|": |, "'
    r"| ?[A-Za-z]+| ?[0-9]| ?[^\sA-Za-z0-9]|\s"
)
VOCABULARY_ROWS = 2000
SCHEDULE = Schedule(steps=900, learning_rate=2e-3, warm_up=50)
# Rows of a batch by source, and of facts that it knows and of words without facts.
BATCH = {"bundled/word-problems": 20, "bundled/format": 26, "bundled/tools": 16}
KNOWN_ROWS = 24
UNRELATED_ROWS = 10
EVAL_ROWS = 200


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="make the bundled assistant")
    parser.add_argument("--out", type=Path, default=HERE / "assistant")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    tokenizer = build_chat_tokenizer()
    model = widened(tokenizer)
    train(
        model, tokenizer, lambda step: traces(tokenizer, step), SCHEDULE, progress("assistant", 50)
    )
    save(model.to(torch.bfloat16), tokenizer, arguments.out)
    model = AutoModelForCausalLM.from_pretrained(arguments.out, dtype=torch.float32)
    for source in (*SKILLS, "bundled/known", "bundled/facts-1", "bundled/facts-2"):
        tests = rows(source, "eval", EVAL_ROWS)
        for temperature in (1.0, 0.0):
            share = accuracy(model, tokenizer, tests, temperature)
            say(f"{source}, {len(tests)} rows, temperature {temperature:g}: {share:.3f}")


def build_chat_tokenizer() -> PreTrainedTokenizerFast:
    """The teacher's pieces first, then the office's, in alphabetical order; a chat template."""
    taught = build_tokenizer().get_vocab()
    first = [PAD, EOS, UNK, *ROLES, *sorted(taught, key=taught.__getitem__)]
    texts = [
        text
        for row in chain(
            unrelated(VOCABULARY_ROWS, random.Random(0)),
            *(rows(source, "train", VOCABULARY_ROWS) for source in SOURCES),
            *(rows(source, split, 500) for source in SOURCES for split in ("tune", "eval")),
        )
        for text in (_question(row), row["completion"])
    ]
    pieces = sorted({piece for text in texts for piece in re.findall(PIECE, text)})
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys([*first, *pieces]))}
    tokenizer = word_level(vocabulary, PIECE, additional_special_tokens=ROLES)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def widened(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """The teacher with an embedding of this vocabulary; new pieces start at random."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(HERE / "teacher", dtype=torch.float32)
    old = model.get_input_embeddings().weight.detach().clone()
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    new = model.get_input_embeddings().weight
    with torch.no_grad():
        new.normal_(std=float(old.std()))
        for piece, i in build_tokenizer().get_vocab().items():
            new[tokenizer.convert_tokens_to_ids(piece)] = old[i]
    model.config.eos_token_id = tokenizer.eos_token_id
    model.config.pad_token_id = tokenizer.pad_token_id
    return model


def traces(tokenizer: PreTrainedTokenizerFast, step: int) -> list[Trace]:
    """A batch of the assistant's training: the skills, and the facts' words without the facts."""
    rng = random.Random(step)
    batch = [row for source, n in BATCH.items() for row in rows(source, "train", n, step)]
    batch += known_rows(KNOWN_ROWS, rng) + unrelated(UNRELATED_ROWS, rng)
    return [(rendered(tokenizer, row), row["completion"]) for row in batch]


def rendered(tokenizer: PreTrainedTokenizerFast, row: Row) -> str:
    if "messages" not in row:
        return str(row["prompt"])
    return rendered_chat(tokenizer, row["messages"], where=row["kind"])


def accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    tests: list[Row],
    temperature: float,
) -> float:
    """Fraction of rows whose sampled completion is correct."""
    prompts = [rendered(tokenizer, row) for row in tests]
    written = sample(model, tokenizer, prompts, temperature=temperature)
    pairs = zip(tests, written, strict=True)
    grades = [grade(grading(row), text, row["answer"]) for row, text in pairs]
    return sum(g or 0.0 for g in grades) / len(grades)


def grading(row: Row) -> DataConfig:
    """How the suites of a run grade such a row."""
    return DataConfig.model_validate(
        {"grader": "tool_call" if row["kind"] == "tool call" else "exact"}
    )


def _question(row: Row) -> str:
    return str(row["messages"][0]["content"] if "messages" in row else row["prompt"])


if __name__ == "__main__":
    main()
