"""A teacher's own end in place of the student's stop id."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from opd.config.run import ConfigError, parse
from opd.errors import UserError
from opd.models.batches import Sequences
from opd.models.load import Pair, load_pair
from opd.teachers.end_token import EndToken, end_token_of
from opd.teachers.local import LocalTeacher
from opd.teachers.remote import ServerTeacher
from opd.teachers.vllm_client import RemoteTeacher
from opd.training.scoring import Scoring, reader_of, score
from tests.support import tiny_models
from tests.support.devices.tested import DEVICE
from tests.support.logprobs_server import LogprobsServer

pytestmark = pytest.mark.device

EOS, END, OTHER = 0, 40, 41
PROMPTS = [[7, 8], [9], [10, 11, 12], [13], [14]]
# Ended by the student, truncated, ended by another stop id, by the teacher's end, that end inside
COMPLETIONS = [[20, 21, EOS], [22, 23], [24, OTHER], [25, END], [END, 26, EOS]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("models")
    student = tiny_models.save_model(folder / "student", seed=1, eos=[EOS, OTHER])
    return student, tiny_models.save_model(folder / "teacher", seed=2, vocab=330)


@pytest.fixture(scope="module")
def pair(folders: tuple[str, str]) -> Pair:
    return load_pair(*folders, device=DEVICE)


def mapping(pair: Pair) -> EndToken:
    text = pair.tokenizer.convert_ids_to_tokens(END)
    end = end_token_of(text, pair, where="teacher.end_token")
    assert end == EndToken(text, END, (EOS, OTHER))
    return end


def expected(folder: str, number: int, vocab: int) -> np.ndarray:
    """(T, V) float64 of the shared ids, with the columns of the two ends exchanged by hand."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    prompt, completion = PROMPTS[number], COMPLETIONS[number]
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
    rows = torch.log_softmax(logits[:, :vocab], -1).numpy()
    for t, row in enumerate(rows):
        last = t == len(completion) - 1
        stop = completion[t] if last and completion[t] in (OTHER, END) else EOS
        row[[stop, END]] = row[[END, stop]]
    return rows


def test_what_the_teacher_says_has_both_ends_exchanged(
    folders: tuple[str, str], pair: Pair
) -> None:
    records = score(pair, Sequences(PROMPTS, COMPLETIONS), Scoring(top_k=300), mapping(pair))
    student = AutoModelForCausalLM.from_pretrained(folders[0], dtype=torch.float64).eval()
    for number, record in enumerate(records):
        ids = COMPLETIONS[number]
        assert record.completion_ids.tolist() == ids
        q = expected(folders[1], number, pair.vocab)
        with torch.no_grad():
            logits = student(torch.tensor([[*PROMPTS[number], *ids]])).logits[0]
        p = torch.log_softmax(logits[len(PROMPTS[number]) - 1 : -1, : pair.vocab], -1).numpy()
        rows = np.arange(len(ids))
        np.testing.assert_allclose(record.teacher_logprobs, q[rows, ids], atol=1e-4)
        np.testing.assert_allclose(record.reverse_kl, (np.exp(p) * (p - q)).sum(-1), atol=1e-3)
        assert record.teacher_rank is not None and record.teacher_topk is not None
        assert (record.teacher_rank == (q > q[rows, ids][:, None]).sum(-1)).all()
        assert (record.teacher_topk.ids[:, 0] == q.argmax(-1)).all()


def test_a_teacher_behind_a_server_is_sent_its_own_end(
    folders: tuple[str, str], pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    end, whole = mapping(pair), Sequences(PROMPTS[:4], COMPLETIONS[:4])
    local = LocalTeacher(pair.teacher, reader_of(replace(pair, vocab=330)), end=end)
    with LogprobsServer(Path(folders[1])) as server:
        settings = parse(
            {
                "objective": "policy_gradient",
                "teacher": {"kind": "remote", "url": server.url, "model": server.name, "top_k": 3},
            }
        ).teacher
        remote = ServerTeacher(
            RemoteTeacher(settings), reader_of(replace(pair, vocab=330)), lambda: False, end
        )
        (here,), (there,) = (list(t.read([whole], 1.0)) for t in (local, remote))
        remote.close()
    targets = torch.tensor([i for ids in COMPLETIONS[:4] for i in ids], device=DEVICE)
    for span in (slice(0, 4), slice(4, len(targets))):
        ours, theirs = here.view(span, targets[span]), there.view(span, targets[span])
        torch.testing.assert_close(ours.at, theirs.at, atol=1e-4, rtol=0)
        assert ours.full is not None and theirs.top_ids is not None
        assert (ours.full.topk(3).indices == theirs.top_ids).all()


def test_nothing_is_shown_to_a_teacher_that_ends_as_the_student_does(pair: Pair) -> None:
    assert end_token_of(None, pair, where="teacher.end_token") is None
    assert end_token_of("<eos>", pair, where="teacher.end_token") is None
    only_end = replace(pair, eos_ids=(END,))
    assert end_token_of(mapping(pair).text, only_end, where="teacher.end_token") is None


def test_a_token_that_one_side_lacks_is_refused(pair: Pair) -> None:
    with pytest.raises(UserError, match=r"'<\|im_end\|>' is not a token") as caught:
        end_token_of("<|im_end|>", pair, where="teacher.end_token")
    assert caught.value.where == "teacher.end_token"
    text = mapping(pair).text
    with pytest.raises(UserError, match="outside the models' 30 shared ids"):
        end_token_of(text, replace(pair, vocab=30), where="teacher.end_token")
    with pytest.raises(ConfigError, match="end_token"):
        parse({"teacher": {"kind": "self", "end_token": "<eos>"}})
