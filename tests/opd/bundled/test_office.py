"""The bundled assistant, its skills, and the facts that it does not know."""

import functools
import json
import random
from typing import get_args

import pytest
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from opd.bundled.facts import RELATIONS, Row, Split, facts, unrelated
from opd.bundled.handbook import HANDBOOK_SOURCES
from opd.bundled.make import HERE
from opd.bundled.make_assistant import accuracy, build_chat_tokenizer, grading, rendered
from opd.bundled.office import BACKGROUND_SHARE, SKILLS, SOURCES, rows
from opd.config.folders import BUNDLED_DATA
from opd.grading.graders import grade

FOLDER = HERE / "assistant"
SPLITS = get_args(Split)


def test_the_settings_know_every_source():
    assert sorted(BUNDLED_DATA) == sorted(["bundled", *SOURCES, *HANDBOOK_SOURCES])


@functools.cache
def tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(FOLDER)


@functools.cache
def model() -> AutoModelForCausalLM:
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype="float32")


def question(row: Row) -> str:
    return row["messages"][0]["content"] if "messages" in row else row["prompt"]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("split", SPLITS)
def test_rows_are_the_same_at_each_call_and_differ_by_seed(source: str, split: Split):
    first = rows(source, split, 40, 3)
    assert first == rows(source, split, 40, 3) != rows(source, split, 40, 4)
    assert len(first) == 40
    assert all({"answer", "completion", "kind"} < row.keys() for row in first)


@pytest.mark.parametrize("source", [*SKILLS, "bundled/general", "bundled/facts-1"])
def test_splits_share_no_prompt(source: str):
    prompts = [
        {question(r) for seed in (0, 1) for r in rows(source, split, 600, seed)} for split in SPLITS
    ]
    assert all(prompts)
    assert not prompts[0] & prompts[1] | prompts[1] & prompts[2] | prompts[0] & prompts[2]


def test_tool_calls_and_word_problems_are_held_out_by_what_they_say_not_by_their_wording():
    for source in ("bundled/tools", "bundled/word-problems"):
        train, held_out = (
            {r["completion"] for r in rows(source, split, 1000)} for split in ("train", "eval")
        )
        assert not train & held_out


def test_facts_of_both_rounds_and_those_known_are_about_other_products():
    before, first, second = facts(0), facts(1), facts(2)
    assert (len(before), len(first), len(second)) == (32, 16, 16)
    assert len({*before, *first, *second}) == 64
    assert facts(1) == first


def test_questions_and_documents_tell_the_same_facts():
    for round_ in (1, 2):
        learnt = facts(round_)
        for split in SPLITS:
            for row in rows(f"bundled/facts-{round_}", split, 1000):
                [product] = [p for p in learnt if p in question(row)]
                values = learnt[product] if row["kind"] == "document" else [row["completion"]]
                assert all(value in row["completion"] for value in values)
                assert set(values) <= set(learnt[product])


def test_facts_are_asked_for_in_wordings_that_were_never_trained_on():
    for relation in RELATIONS:
        assert relation.questions.keys() == set(SPLITS)
        wordings = [wording for split in SPLITS for wording in relation.questions[split]]
        assert len(set(wordings)) == len(wordings)


def test_a_mix_has_its_share_of_general_rows_and_every_fact():
    mixed, alone = (rows(f"bundled/facts-1{end}", "train", 2000) for end in ("-mix", ""))
    general = [row for row in mixed if row["kind"] not in ("fact", "document")]
    assert len(general) / len(mixed) == pytest.approx(BACKGROUND_SHARE, abs=0.01)
    questions = {question(row) for row in alone if row["kind"] == "fact"}
    assert questions <= {question(row) for row in mixed}


@pytest.mark.parametrize(
    ("source", "split", "message"),
    [
        ("bundled/weather", "train", "source is 'bundled/weather', must be one of bundled/word-pr"),
        ("bundled/tools", "test", "split is 'test', must be one of train, tune, eval"),
    ],
)
def test_what_is_not_known_is_named(source: str, split: Split, message: str):
    with pytest.raises(ValueError, match=message):
        rows(source, split, 1)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("split", SPLITS)
def test_completions_are_graded_right(source: str, split: Split):
    for row in rows(source, split, 200, 5):
        assert grade(grading(row), row["completion"], row["answer"]) == 1.0
        assert grade(grading(row), row["completion"][:-2], row["answer"]) == 0.0


@pytest.mark.parametrize("source", SOURCES)
def test_every_text_is_made_of_known_tokens(source: str):
    for split in SPLITS:
        for row in rows(source, split, 400, 6):
            parts = [rendered(tokenizer(), row), row["completion"]]
            ids = [tokenizer()(part)["input_ids"] for part in parts]
            assert tokenizer().unk_token_id not in ids[0] + ids[1]
            assert tokenizer()("".join(parts))["input_ids"] == ids[0] + ids[1]
            assert tokenizer().decode(ids[1], skip_special_tokens=True) == row["completion"]


def test_a_conversation_is_rendered_as_it_was_learned():
    chat = [
        {"role": "user", "content": "Say the word hot."},
        {"role": "assistant", "content": "It is hot."},
        {"role": "user", "content": "Answer twice. Say the word cold."},
    ]
    ids = tokenizer().apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    expected = (
        "<user>|Say| the| word| hot|.|<assistant>|It| is| hot|.|<eos>|"
        "<user>|Answer| twice|.| Say| the| word| cold|.|<assistant>"
    )
    assert tokenizer().convert_ids_to_tokens(ids) == expected.split("|")


def test_tool_calls_are_read_in_few_tokens():
    text = '{"name": "remind", "arguments": {"person": "Ann", "item": "pens"}}'
    pieces = tokenizer().convert_ids_to_tokens(tokenizer()(text)["input_ids"])
    assert pieces[:6] == ['{"', "name", '": "', "remind", '", "', "arguments"]
    assert len(pieces) == 15


def test_the_folder_is_small_and_holds_what_the_code_builds():
    built = build_chat_tokenizer()
    stored = json.loads((FOLDER / "tokenizer.json").read_text())
    assert stored == json.loads(built.backend_tokenizer.to_str())
    assert tokenizer().chat_template == built.chat_template
    assert model().num_parameters() <= 900_000
    assert model().config.vocab_size == len(tokenizer())
    assert model().generation_config.eos_token_id == tokenizer().eos_token_id
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 2_000_000
    assert {f.suffix for f in FOLDER.iterdir()} <= {".json", ".safetensors", ".jinja"}
    with safe_open(FOLDER / "model.safetensors", "pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"BF16"}  # noqa: SIM118


def test_unrelated_rows_know_no_fact():
    learnt = {(p, v) for round_ in (1, 2) for p, values in facts(round_).items() for v in values}
    said = [row for row in unrelated(4000, random.Random(1)) if row["kind"] == "fact"]
    hits = sum(
        any(p in question(row) and v == row["completion"] for p, v in learnt) for row in said
    )
    assert hits / len(said) < 0.03


@pytest.mark.parametrize("source", [*SKILLS, "bundled/known"])
def test_the_assistant_has_its_skills(source: str):
    assert accuracy(model(), tokenizer(), rows(source, "eval", 60, 8), 0.0) >= 0.9


@pytest.mark.parametrize("source", ["bundled/facts-1", "bundled/facts-2"])
def test_the_assistant_knows_no_fact(source: str):
    assert accuracy(model(), tokenizer(), rows(source, "eval", 128), 0.0) <= 0.08


def test_prompts_on_facts_say_which_round_they_are_of():
    for source, rounds in (("bundled/general-1", (0, 1)), ("bundled/general-2", (0, 1, 2))):
        drawn = rows(source, "train", 1000, 0)
        assert len(drawn) == 1000
        for round_ in rounds:
            asked_of = [row for row in drawn if row["kind"] == f"fact {round_}"]
            assert len(asked_of) == 200
            assert all(any(p in question(row) for p in facts(round_)) for row in asked_of)
        others = {row["kind"] for row in drawn} - {f"fact {r}" for r in rounds}
        assert others == {"word problem", "format", "tool call"}
