"""Branches and live replies against plain transformers in float64."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sqlalchemy import Engine, select
from transformers import AutoModelForCausalLM, AutoTokenizer

from app.worker.devices import holds
from app.worker.job import claim, run
from app.worker.models import process
from app.worker.models.request import ModelCache, ModelRequest
from app.worker.models.what_if import what_if as answer
from opd.config.run import parse
from opd.types import Floats
from storage import schema
from storage.data_dir import DataDir
from storage.engine import open_database
from storage.insights.hot_tokens import read_hot_tokens
from storage.queue import jobs, requests
from storage.read.branches import read_branches
from storage.read.rollouts import read_rollout, read_rollouts
from storage.read.runs import read_run
from storage.read.tokens import EXTRA_COLUMNS, MAIN_COLUMNS, read_tokens, read_topk
from tests.support.devices.fake_gpus import FakeCuda
from tests.support.devices.tested import DEVICE, SLOT
from tests.support.stored_runs import me
from tests.support.tiny_models import save_model

pytestmark = pytest.mark.device


@pytest.fixture(autouse=True)
def a_process_of_its_own(monkeypatch):
    """Which would end where models were on a GPU and are not any more, as here after each test; and
    looks more often for a request, since it ends after the first."""
    monkeypatch.setattr(process, "_on_a_gpu", lambda: False)
    monkeypatch.setattr(process, "LOOK_EVERY", 0.01)


TOLERANCE = 1e-4
SMALL: dict[str, Any] = {
    "device": str(DEVICE),
    "threads": 1,
    "steps": 2,
    "prompts": {"count": 8, "probe": 0, "grader": "numeric"},
    "sampling": {"prompts_per_step": 2, "group_size": 2, "max_new_tokens": 12},
    "optimizer": {"learning_rate": 0.01},
    "evaluation": {"prompts": 2, "keep": 2},
    "checkpoints": {"every": 1, "keep": 2},
    "records": {"top_k": 4},
}


@dataclass(frozen=True)
class Trained:
    """A tiny run of two steps with a checkpoint after each."""

    engine: Engine
    data_dir: Path
    run_id: str
    student: str
    teacher: str

    @property
    def rollout(self) -> dict[str, Any]:
        page = read_rollouts(self.engine, self.run_id, sort="-tokens", kind="train", limit=1)
        item: dict[str, Any] = page["items"][0]
        return item

    def checkpoint(self, step: int) -> str:
        saved = read_run(self.engine, self.run_id)["checkpoints"]
        return str(next(c["path"] for c in saved if c["step"] == step))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    folder = tmp_path_factory.mktemp("trained")
    student = save_model(folder / "student", seed=1)
    teacher = save_model(folder / "teacher", seed=2)
    engine = open_database(folder)
    config = SMALL | {"student": student, "teacher": teacher}
    run_id = jobs.create_run(engine, parse(config))
    job = claim(engine, DataDir(folder), run_id, SLOT)
    assert job is not None
    assert run(job).status == "finished"
    yield Trained(engine, folder, run_id, student, teacher)
    engine.dispose()


def answered(trained: Trained, kind: str, payload: dict[str, Any]) -> dict[str, Any]:
    """The question, asked and answered within this process."""
    name = requests.enqueue(trained.engine, kind, payload)
    process.serve(trained.engine, DataDir(trained.data_dir), 0.01)
    return requests.read_request(trained.engine, name)


def what_if(trained: Trained, **changes: Any) -> list[dict[str, Any]]:
    """The kept branches with their tokens."""
    payload = {
        "run": trained.run_id,
        "rollout": trained.rollout["id"],
        "checkpoint": 2,
        "position": 3,
        "token": 77,
        "text": None,
        "authors": ["student", "teacher"],
        "samples": 1,
        "temperature": 0,
        "max_new_tokens": 10,
        "seed": 5,
        **changes,
    }
    reply = answered(trained, "what-if", payload)
    assert reply["state"] == "done", reply
    return [stored(trained, name) for name in reply["answer"]["branches"]]


def stored(trained: Trained, name: str) -> dict[str, Any]:
    names = (*MAIN_COLUMNS, *EXTRA_COLUMNS)
    view = read_tokens(trained.engine, name, names)
    columns = {k: np.asarray(v) for k, v in view.columns.items()}
    return {**read_rollout(trained.engine, name), "prompt_ids": view.prompt_ids, **columns}


def logprobs(folder: str, prompt: Any, completion: Any, temperature: float = 1.0) -> Any:
    """(T, V) in float64, by one plain forward pass."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    return read(model, prompt, completion, temperature)


def read(model: Any, prompt: Any, completion: Any, temperature: float = 1.0) -> Any:
    ids = torch.tensor([[*map(int, prompt), *map(int, completion)]])
    with torch.no_grad():
        logits = model(ids).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits / temperature, -1).numpy()


def greedy(folder: str, start: list[int], count: int) -> list[int]:
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = model.generate(
        torch.tensor([start]), max_new_tokens=count, do_sample=False, pad_token_id=1
    )
    return [int(i) for i in ids[0, len(start) :]]


def near(values: Any, expected: Floats) -> None:
    np.testing.assert_allclose(np.asarray(values, np.float64), expected, atol=TOLERANCE)


def test_a_branch_is_prefix_choice_and_the_models_own_greedy_words(trained: Trained) -> None:
    parent = stored(trained, trained.rollout["id"])
    models = {"student": trained.checkpoint(2), "teacher": trained.teacher}
    branches = what_if(trained)
    assert [b["author"] for b in branches] == ["student", "teacher"]
    for branch in branches:
        ids = [int(i) for i in branch["completion_ids"]]
        assert ids[:3] == [int(i) for i in parent["completion_ids"][:3]] and ids[3] == 77
        assert list(branch["prompt_ids"]) == list(parent["prompt_ids"])
        start = [int(i) for i in branch["prompt_ids"]] + ids[:4]
        assert ids[4:] == greedy(models[branch["author"]], start, 10)
        assert (branch["kind"], branch["step"], branch["group"]) == ("branch", 2, parent["group"])
        assert branch["answer"] == parent["answer"]
    assert list(branches[0]["completion_ids"]) != list(branches[1]["completion_ids"])


def test_its_numbers_are_those_of_plain_transformers(trained: Trained) -> None:
    for branch in what_if(trained, temperature=0.7, samples=2):
        given = branch["prompt_ids"], branch["completion_ids"]
        p = logprobs(trained.checkpoint(2), *given, 0.7)
        q = logprobs(trained.teacher, *given, 0.7)
        rows, ids = np.arange(len(p)), np.asarray(branch["completion_ids"], int)
        kl = (np.exp(p) * (p - q)).sum(-1)
        near(branch["reverse_kl"], kl)
        near(branch["student_logprobs"], p[rows, ids])
        near(branch["teacher_logprobs"], q[rows, ids])
        near(branch["student_entropy"], -(np.exp(p) * p).sum(-1))
        near(branch["teacher_entropy"], -(np.exp(q) * q).sum(-1))
        assert branch["temperature"] == 0.7
        assert branch["kl_sum"] == pytest.approx(kl[3:].sum(), abs=TOLERANCE * 10)
        assert list(branch["mask"]) == [0] * 3 + [1] * (len(ids) - 3)
        best = read_topk(trained.engine, branch["id"], 4, 1)[0]
        assert best["teacher"][0]["id"] == int(q[4].argmax())
        assert best["teacher"][0]["student_logprob"] == pytest.approx(
            p[4, q[4].argmax()], abs=TOLERANCE
        )
        assert len(best["student"]) == len(best["teacher"]) == 4


def test_the_same_question_makes_the_same_branch_once(trained: Trained) -> None:
    settings = {"temperature": 1.3, "samples": 3, "authors": ["student"], "seed": 11}
    first, again = what_if(trained, **settings), what_if(trained, **settings)
    assert [b["id"] for b in first] == [b["id"] for b in again]
    for one, other in zip(first, again, strict=True):
        assert list(one["completion_ids"]) == list(other["completion_ids"])
    assert len({tuple(b["completion_ids"]) for b in first}) == 3, "samples differ"
    other = what_if(trained, **settings | {"seed": 12})
    assert {b["id"] for b in other}.isdisjoint(b["id"] for b in first)
    with trained.engine.connect() as connection:
        table = schema.rollout.c
        ids = list(connection.scalars(select(table.id).where(table.kind == "branch")))
        kept = connection.scalars(select(table.bytes).where(table.run_id == trained.run_id))
        assert sum(kept) == read_run(trained.engine, trained.run_id)["bytes"]
    assert len(ids) == len(set(ids)) and {b["id"] for b in first} <= set(ids)


def test_the_checkpoint_decides_the_weights(trained: Trained) -> None:
    wish = {"authors": ["student"], "temperature": 0}
    for step, folder in (
        (None, trained.student),
        (1, trained.checkpoint(1)),
        (2, trained.checkpoint(2)),
    ):
        (branch,) = what_if(trained, checkpoint=step, **wish)
        assert branch["step"] == (step or 0)
        p = logprobs(folder, branch["prompt_ids"], branch["completion_ids"])
        ids = np.asarray(branch["completion_ids"], int)
        near(branch["student_logprobs"], p[np.arange(len(ids)), ids])


def test_the_run_itself_is_not_changed_by_its_branches(trained: Trained) -> None:
    before = read_run(trained.engine, trained.run_id)
    hot = read_hot_tokens(trained.engine, trained.run_id, limit=1000)["items"]
    what_if(trained, token=5, temperature=10, seed=99)
    after = read_run(trained.engine, trained.run_id)
    for name in ("scales", "tokens", "kl", "score", "step", "status"):
        assert before[name] == after[name]
    assert read_hot_tokens(trained.engine, trained.run_id, limit=1000)["items"] == hot


def test_a_choice_that_ends_the_answer_is_all_there_is(trained: Trained) -> None:
    eos = AutoTokenizer.from_pretrained(trained.student).eos_token_id
    for branch in what_if(trained, token=eos):
        assert len(branch["completion_ids"]) == 4 and branch["finish_reason"] == "stop"


def test_typed_text_becomes_the_tokenizers_tokens(trained: Trained) -> None:
    tokenizer = AutoTokenizer.from_pretrained(trained.student)
    ids = tokenizer(" teacher 7", add_special_tokens=False)["input_ids"]
    for branch in what_if(trained, token=None, text=" teacher 7"):
        assert [int(i) for i in branch["completion_ids"][3 : 3 + len(ids)]] == ids


def test_branches_are_listed_with_their_parent(trained: Trained) -> None:
    parent = trained.rollout["id"]
    made = what_if(trained, position=1, seed=21)
    listed = read_branches(trained.engine, parent)
    at = {b["id"]: b["position"] for b in listed["items"]}
    assert all(at[b["id"]] == 1 for b in made) and listed["parent"] is None
    (deeper,) = what_if(
        trained, rollout=made[0]["id"], position=2, authors=["student"], token=9, seed=22
    )
    branches = read_branches(trained.engine, made[0]["id"])
    assert [b["id"] for b in branches["items"]] == [deeper["id"]]
    assert branches["parent"] == {"id": parent, "position": 1}
    again = read_branches(trained.engine, parent)["items"]
    assert deeper["id"] not in {b["id"] for b in again}, "only those that left this one"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"token": 310}, "310 shared ids"),
        ({"text": "", "token": None}, "no tokens"),
        ({"checkpoint": 7}, "no longer has a checkpoint of step 7"),
    ],
)
def test_what_cannot_be_is_told(trained: Trained, changes: Any, words: str) -> None:
    payload = {
        **{"run": trained.run_id, "rollout": trained.rollout["id"], "checkpoint": 2},
        **{"position": 1, "token": 7, "text": None, "authors": ["student"], "samples": 1},
        **{"temperature": 0, "max_new_tokens": 4, "seed": 0},
    }
    reply = answered(trained, "what-if", payload | changes)
    assert reply["state"] == "failed" and words in reply["error_text"], reply


def conversation(text: str, **changes: Any) -> dict[str, Any]:
    turn = [{"role": "user", "content": text}]
    return {
        **{"checkpoint": 2, "recipe": None, "temperature": 0.9, "max_new_tokens": 14, "seed": 3},
        "conversations": {"student": turn, "teacher": turn},
        **changes,
    }


def test_a_chat_is_scored_as_plain_transformers_scores_it(trained: Trained) -> None:
    chat = answered(trained, "chat", conversation("1 + 2 =", run=trained.run_id))
    assert chat["state"] == "done", chat
    answer = chat["answer"]
    assert [r["author"] for r in answer["replies"]] == ["student", "teacher"]
    for reply in answer["replies"]:
        assert reply["prompt"] == "1 + 2 =" and reply["finish_reason"] in ("stop", "length")
        given = reply["prompt_ids"], reply["ids"]
        p = logprobs(trained.checkpoint(2), *given, 0.9)
        q = logprobs(trained.teacher, *given, 0.9)
        rows = np.arange(len(p))
        near(reply["reverse_kl"], (np.exp(p) * (p - q)).sum(-1))
        near(reply["student_logprobs"], p[rows, reply["ids"]])
        near(reply["teacher_logprobs"], q[rows, reply["ids"]])
        assert [w[0] for w in reply["wanted"]] == q.argmax(-1).tolist()
        assert {str(i) for i in reply["ids"]} <= set(answer["texts"])
    assert (
        answered(trained, "chat", conversation("1 + 2 =", run=trained.run_id))["answer"]["replies"]
        == (answer["replies"])
    )


def test_greedy_replies_are_the_models_own(trained: Trained) -> None:
    payload = conversation("The", run=trained.run_id, temperature=0)
    replies = answered(trained, "chat", payload)["answer"]["replies"]
    for reply, folder in zip(replies, (trained.checkpoint(2), trained.teacher), strict=True):
        assert reply["ids"] == greedy(folder, reply["prompt_ids"], 14)


def test_a_reply_can_be_kept(trained: Trained) -> None:
    payload = conversation("1 + 1 =", run=trained.run_id)
    reply = answered(trained, "chat", payload)["answer"]["replies"][1]
    names = {
        answered(trained, "keep", {**payload, "reply": reply})["answer"]["rollout"]
        for _ in range(2)
    }
    assert len(names) == 1
    kept = stored(trained, names.pop())
    assert (kept["author"], kept["kind"], kept["prompt"]) == ("teacher", "branch", "1 + 1 =")
    assert list(kept["completion_ids"]) == reply["ids"]
    near(kept["reverse_kl"], np.asarray(reply["reverse_kl"]))


def test_nobody_asks_any_more(trained: Trained) -> None:
    """A question that was cancelled while it is answered leaves nothing behind."""
    before = read_branches(trained.engine, trained.rollout["id"])["total"]
    payload = {
        **{"run": trained.run_id, "rollout": trained.rollout["id"], "checkpoint": 2},
        **{"position": 2, "token": 7, "text": None, "authors": ["student"], "samples": 1},
        **{"temperature": 1.0, "max_new_tokens": 4, "seed": 123},
    }
    held = ModelCache(DataDir(trained.data_dir))
    request = ModelRequest(payload, trained.engine, DataDir(trained.data_dir), held)
    assert answer(request, lambda phase, partial: False) == {}
    assert read_branches(trained.engine, trained.rollout["id"])["total"] == before


@pytest.mark.parametrize("kind", ["self", "ema", "lora"])
def test_a_teacher_made_of_the_student_judges_and_writes(tmp_path: Path, kind: str) -> None:
    """Its own start, the checkpoint's moving average, and the start beneath an adapter."""
    student = save_model(tmp_path / "student", seed=1)
    lora = {"rank": 2, "alpha": 64} if kind == "lora" else None
    teacher_settings = {"kind": "ema", "ema_decay": 0.5} if kind == "ema" else {"kind": "self"}
    config = SMALL | {
        "student": {"model": student, "lora": lora},
        "teacher": teacher_settings,
        "objective": {"name": "sft"},  # no other moves away from a teacher that is its equal
        "sampling": SMALL["sampling"] | {"source": "given"},
    }
    engine = open_database(tmp_path)
    run_id = jobs.create_run(engine, parse(config))
    job = claim(engine, DataDir(tmp_path), run_id, SLOT)
    assert job is not None
    assert run(job).status == "finished"
    made = Trained(engine, tmp_path, run_id, student, student)
    branches = what_if(made, max_new_tokens=5)
    folder = Path(made.checkpoint(2))
    teacher = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float64).eval()
    if kind == "ema":
        average = load_file(folder / "average.safetensors")
        teacher.load_state_dict({k: v.double() for k, v in average.items()}, strict=False)
    for branch in branches:
        given = branch["prompt_ids"], branch["completion_ids"]
        q = read(teacher, *given)
        ids = np.asarray(branch["completion_ids"], int)
        near(branch["teacher_logprobs"], q[np.arange(len(ids)), ids])
        assert branch["kl_sum"] > 1e-3, "student and teacher differ by now"
        if branch["author"] == "teacher":
            assert ids[4:].tolist() == q[4:].argmax(-1).tolist()
    engine.dispose()


def test_a_chat_template_is_told_the_whole_conversation(tmp_path: Path) -> None:
    student = save_model(tmp_path / "student", seed=1)
    tokenizer = AutoTokenizer.from_pretrained(student)
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    tokenizer.save_pretrained(student)
    engine = open_database(tmp_path)
    prompts = {"chat": True, "system": "Be brief."}
    config = {"student": student, "teacher": student, "device": str(DEVICE), "prompts": prompts}
    run_id = jobs.create_run(engine, parse(config))
    said = [
        {"role": "user", "content": "1 + 2"},
        {"role": "assistant", "content": "3"},
        {"role": "user", "content": "and 4?"},
    ]
    payload = conversation("", run=run_id, checkpoint=None, conversations={"student": said})
    chat = answered(Trained(engine, tmp_path, run_id, student, student), "chat", payload)
    (reply,) = chat["answer"]["replies"]
    messages = [{"role": "system", "content": "Be brief."}, *said]
    assert chat["answer"]["chat"] and reply["prompt"].startswith("[system]Be brief.[user]1 + 2")
    assert reply["prompt_ids"] == list(
        tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    )
    assert max(map(abs, reply["reverse_kl"])) < TOLERANCE, "student and teacher are one model"
    engine.dispose()


def test_a_busy_gpu_is_told_and_the_processor_answers_by_choice(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeCuda().install(monkeypatch)
    monkeypatch.setattr(holds, "gpu_count", lambda: 1)
    run_id = jobs.create_run(trained.engine, parse({}))
    attempt = jobs.claim(trained.engine, run_id, "cuda:0", me())
    assert attempt is not None
    payload = conversation("1 + 2 =", run=None, recipe="demo", checkpoint=None, max_new_tokens=2)
    refused = answered(trained, "chat", payload)
    assert (refused["state"], refused["error_kind"]) == ("failed", "device busy")
    assert f"cuda:0: {run_id}" in refused["error_text"] and "processor" in refused["hint"]
    chosen = answered(trained, "chat", payload | {"device": "cpu"})
    assert chosen["state"] == "done" and len(chosen["answer"]["replies"]) == 2
    assert jobs.finish(trained.engine, run_id, attempt, "cancelled")
