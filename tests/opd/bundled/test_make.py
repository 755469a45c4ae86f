"""The bundled problems, tokenizer, teacher and student."""

import functools
import json
import operator
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from opd.bundled import make
from opd.bundled.habits import bad_completion
from opd.bundled.make import bad_traces, right_traces
from opd.bundled.problems import MAX_VALUE, Split, WordProblem, problems, stories
from opd.bundled.slips import OFFSETS, slip, slipping_completion
from opd.bundled.tokenizer import build_tokenizer
from opd.bundled.training import Accuracy, Schedule, sample, score
from opd.config.folders import BUNDLED, local_folder
from opd.grading.graders import exact

FOLDER = make.HERE
PYCACHE = "__pycache__"
ROLES = ("teacher", "student")
WORD_MODELS = (*ROLES, "small", "slips")  # those of the word problems
OPERATIONS = {"+": operator.add, "-": operator.sub, "x": operator.mul}
# What each sentence of a problem says, read without the code that wrote it.
SENTENCES = {
    r"^(?:buys|finds|gets) (\d+) more$": "+",
    r"^(?:gives away|loses|sells) (\d+)$": "-",
    r"^doubles the \w+$|^number of \w+ doubles$": "x2",
    r"^triples the \w+$|^number of \w+ triples$": "x3",
}


@functools.cache
def loaded(role: str) -> AutoModelForCausalLM:
    return AutoModelForCausalLM.from_pretrained(FOLDER / role)


@functools.cache
def tokenizer(role: str = "student") -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(FOLDER / role)


@functools.cache
def scored(role: str, temperature: float, n: int = 100) -> Accuracy:
    tests = problems(n, seed=7, split="eval")
    prompts = [problem.prompt for problem in tests]
    return score(sample(loaded(role), tokenizer(role), prompts, temperature=temperature), tests)


def parsed(prompt: str) -> tuple[int, list[tuple[str, int]]]:
    """The start number and the steps, parsed from the sentences."""
    first, *middle = prompt.split(". ")[:-1]
    start = int(re.search(r"(?:has|starts with) (\d+) ", first).group(1))
    steps = []
    for sentence in middle:
        _, said = sentence.split(" ", 1)
        [(kind, number)] = [
            (kind, match.group(1) if match.re.groups else kind[1])
            for pattern, kind in SENTENCES.items()
            if (match := re.match(pattern, said))
        ]
        steps.append((kind[0], int(number)))
    return start, steps


def all_lengths(n: int, split: Split = "train") -> list[WordProblem]:
    return [p for steps in range(1, 7) for p in problems(n, seed=steps, split=split, steps=steps)]


def test_problems_are_deterministic_distinct_and_many():
    first = problems(500, seed=3)
    assert first == problems(500, seed=3)
    assert first[:50] == problems(50, seed=3)
    assert len({problem.prompt for problem in first}) == 500
    assert first != problems(500, seed=4)
    assert problems(0, seed=3) == []


@pytest.mark.parametrize("steps", [1, 3, 6])
def test_held_out_problems_share_no_chain_of_numbers_with_training(steps: int):
    train = {str(parsed(p.prompt)) for p in problems(1000, seed=1, split="train", steps=steps)}
    held_out = {str(parsed(p.prompt)) for p in problems(1000, seed=1, split="eval", steps=steps)}
    assert len(train) > 100 and len(held_out) > 50
    assert not train & held_out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": -1}, "n is -1, must be from 0 to 50000"),
        ({"n": 50_001}, "n is 50001, must be from 0 to 50000"),
        ({"steps": 0}, "steps is 0, must be from 1 to 6"),
        ({"steps": 7}, "steps is 7, must be from 1 to 6"),
        ({"split": "test"}, "split is 'test', must be one of train, eval"),
    ],
)
def test_bad_arguments_are_named_with_their_limits(arguments: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        problems(**{"n": 1, "seed": 0, **arguments})


def test_solutions_follow_the_sentences_and_grade_right():
    for problem in all_lengths(100):
        value, steps = parsed(problem.prompt)
        lines = []
        for kind, number in steps:
            after = OPERATIONS[kind](value, number)
            lines.append(f"{value} {kind} {number} = {after}.")
            value = after
            assert 0 <= value <= MAX_VALUE
        assert problem.solution == f"<think> {' '.join(lines)} </think> {value}"
        assert problem.answer == str(value)
        assert problem.steps == len(steps)
        assert exact(problem.solution, problem.answer) == 1.0


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("<think> 7 + 5 = 12. 12 - 4 = 8. </think> 8", 1.0),
        ("<think> nonsense </think>8\n", 1.0),
        ("</think> 5 </think> 8", 1.0),
        ("</think> 8 </think> 5", 0.0),
        ("<think> 12 - 4 = 8. </think> 9", 0.0),
        ("<think> 12 - 4 = 8. </think> 8.", 0.0),
        ("<think> 12 - 4 = 8. </think> 8 8", 0.0),
        ("<think> 12 - 4 = 8. </think> 08", 0.0),
        ("<think> 12 - 4 = 8. </think> +8", 0.0),
        ("<think> 12 - 4 = 8. </think> 8<eos>", 0.0),
        ("<think> 12 - 4 = 8. </think> \u0668", 0.0),
        ("<think> 12 - 4 = 8. </think>", 0.0),
        ("<think> 12 - 4 = 8. </ think> 8", 0.0),
        ("", 0.0),
    ],
)
def test_a_right_answer_is_exactly_what_follows_the_last_think(completion: str, expected: float):
    assert exact(completion, "8") == expected


def test_bad_completions_are_readable_and_often_wrong():
    rng = random.Random(0)
    taught = [(bad_completion(rng, story), p.answer) for story, p in stories(500, seed=11)]
    assert 0.25 < sum(exact(completion, answer) for completion, answer in taught) / 500 < 0.45
    form = r"<think> (\d{1,2} [-+x] \d{1,2} = \d{1,2}\. )*</think> \d{1,2}"
    assert all(re.fullmatch(form, completion) for completion, _ in taught)


@pytest.mark.parametrize("traces", [right_traces, bad_traces])
def test_nothing_held_out_is_trained_on(traces: Callable[[int], list[tuple[str, str]]]):
    # There are few chains of one step: these are all that are held out.
    held_out = {str(parsed(p.prompt)) for p in problems(5000, seed=0, split="eval", steps=1)}
    trained = {str(parsed(prompt)) for step in range(40) for prompt, _ in traces(step)}
    assert not trained & held_out


def test_traces_are_the_same_at_each_call_and_differ_by_step():
    assert right_traces(1) == right_traces(1) != right_traces(2)
    assert bad_traces(1) == bad_traces(1) != bad_traces(2)


@pytest.mark.parametrize("role", ROLES)
def test_tokens_texts_make_up_the_text(role: str):
    for problem in all_lengths(40) + all_lengths(40, "eval"):
        ids = tokenizer(role)(problem.prompt + problem.solution)["input_ids"]
        text = problem.prompt + problem.solution
        assert tokenizer(role).decode(ids, skip_special_tokens=True) == text
        assert "".join(tokenizer(role).decode([i]) for i in ids) == text
        assert "".join(tokenizer(role).convert_ids_to_tokens(ids)) == text
        assert tokenizer(role).unk_token_id not in ids
        parts = (tokenizer(role)(part)["input_ids"] for part in (problem.prompt, problem.solution))
        assert ids == [i for part in parts for i in part]


def test_tokens_are_words_and_digits():
    ids = tokenizer()("Ann has 12 apples.\n<think> 12 - 4 = 8. </think> 8")["input_ids"]
    expected = "Ann| has| 1|2| apples|.|\n|<think>| 1|2| -| 4| =| 8|.| </think>| 8"
    assert tokenizer().convert_ids_to_tokens(ids) == expected.split("|")
    assert set(tokenizer()("Ann")) == {"input_ids", "attention_mask"}


def test_special_tokens_are_distinct_and_vanish():
    ours = tokenizer()
    assert len({ours.eos_token_id, ours.pad_token_id, ours.unk_token_id}) == 3
    ids = ours("<think> 7 </think> 7<eos><pad>")["input_ids"]
    assert ids[-2:] == [ours.eos_token_id, ours.pad_token_id]
    assert ours.decode(ids, skip_special_tokens=True) == "<think> 7 </think> 7"
    assert ours("Zebra")["input_ids"] == [ours.unk_token_id]
    assert 60 <= len(ours) <= 110


def test_the_folders_hold_the_tokenizer_that_the_code_builds():
    built = json.loads(build_tokenizer().backend_tokenizer.to_str())
    for role in WORD_MODELS:
        assert json.loads((FOLDER / role / "tokenizer.json").read_text()) == built
    first, second = ((FOLDER / role / "tokenizer_config.json").read_text() for role in ROLES)
    assert first == second


@pytest.mark.parametrize("role", WORD_MODELS)
def test_models_fit_their_tokenizer(role: str):
    config = loaded(role).config
    assert config.vocab_size == len(tokenizer(role))
    assert config.max_position_embeddings >= 512
    assert loaded(role).num_parameters() <= 900_000
    assert loaded(role).generation_config.eos_token_id == tokenizer(role).eos_token_id
    assert loaded(role).generation_config.pad_token_id == tokenizer(role).pad_token_id


def test_folders_are_small_and_hold_no_code():
    folders = [local_folder(name, where="test") for name in BUNDLED]
    assert {f.name for f in folders} == {f.name for f in FOLDER.iterdir() if f.is_dir()} - {PYCACHE}
    files = [file for folder in folders for file in folder.iterdir()]
    assert {"config.json", "generation_config.json", "model.safetensors"} <= {f.name for f in files}
    assert sum(file.stat().st_size for file in files) <= 12_000_000
    assert {file.suffix for file in files} == {".json", ".safetensors", ".jinja"}


def test_make_writes_both_folders_and_prints_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(make, "TEACHER", Schedule(steps=1, learning_rate=1e-3, warm_up=1))
    monkeypatch.setattr(make, "STUDENT", Schedule(steps=1, learning_rate=1e-3, warm_up=1))
    monkeypatch.setattr(make, "MIX", {1: 2, 3: 2})
    monkeypatch.setattr(make, "EVAL_PROBLEMS", 2)
    make.main(["--out", str(tmp_path)])
    for role in ROLES:
        made, bundled = ({f.name for f in (at / role).iterdir()} for at in (tmp_path, FOLDER))
        assert made == bundled
    made = [load_file(tmp_path / role / "model.safetensors") for role in ROLES]
    assert not torch.equal(*(weights["model.embed_tokens.weight"] for weights in made))
    lines = capsys.readouterr().out.splitlines()
    assert sum("on 2 held-out problems" in line for line in lines) == 4


def test_every_kind_of_step_has_a_slip_of_its_own():
    texts = [story for story, _ in stories(400, seed=3, steps=5)]
    kinds = {(s.operation, s.number % 10) for story in texts for s in story.chain}
    assert len(kinds) == 22
    assert all(slip(s) - s.after in OFFSETS for story in texts for s in story.chain)
    rng = random.Random(0)
    assert [slipping_completion(rng, s, 0) for s in texts] == [
        p.solution for _, p in stories(400, seed=3, steps=5)
    ]
    lines = re.findall(
        r"(\d+) ([-+x]) (\d+) = (\d+)\.", " ".join(slipping_completion(rng, s, 1) for s in texts)
    )
    wrong = [OPERATIONS[o](int(a), int(b)) != int(c) for a, o, b, c in lines]
    assert sum(wrong) / len(wrong) > 0.8  # all but those that would leave 0 to 99


def test_the_slipping_start_is_seldom_right_and_ends_its_answers():
    tests = problems(100, seed=7, split="eval", steps=5)
    texts = sample(loaded("slips"), tokenizer("slips"), [p.prompt for p in tests], temperature=1.0)
    assert 0 < score(texts, tests).value < 0.2
    assert sum("</think>" in text for text in texts) > 95


def test_the_small_student_is_a_thirteenth_of_its_teacher():
    assert loaded("small").num_parameters() * 13 <= loaded("teacher").num_parameters()
    assert 0.05 < scored("small", 1.0).value < 0.4


def test_schedule_warms_up_and_decays():
    schedule = Schedule(steps=100, learning_rate=1.0, warm_up=10)
    assert schedule.at(0) == pytest.approx(0.1)
    assert schedule.at(9) == pytest.approx(0.985, abs=0.001)
    assert schedule.at(100) == pytest.approx(0.0495, abs=0.0001)


def test_teacher_is_right():
    assert scored("teacher", 1.0).value >= 0.90


def test_student_is_often_wrong_but_ends_its_answers():
    assert 0.15 <= scored("student", 1.0).value <= 0.55
    assert scored("student", 0.0).value <= scored("teacher", 0.0).value - 0.2


def test_score_has_its_standard_error():
    assert Accuracy(0.5, 100).error == pytest.approx(0.05)
    assert str(Accuracy(0.36, 400)) == "0.360 ± 0.024"
