"""How a model is read: what depends on its neighbours in a batch is read apart from them."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Phi3Config

from opd.config.run import parse
from opd.errors import UserError
from opd.models.batches import Sequences, score_batch
from opd.models.forward import completion_hidden, logits_of
from opd.models.routes import check_lengths, find_route
from opd.teachers.routing import MAIN
from opd.training.loading import Callbacks, load_models
from tests.support import tiny_models

SWITCH = 8
ROWS = Sequences([[3, 4, 5], [6, 7, 8, 9], [3, 4]], [[5, 6], [9] * 12, [8, 7, 6]])


def logits(model: Any, rows: Sequences) -> np.ndarray:
    batch = score_batch(rows, pad_id=1, device=torch.device("cpu"))
    return logits_of(model, completion_hidden(model, batch), vocab=64).numpy()


@pytest.fixture(scope="module")
def longrope():
    """A Phi-3 whose rotary factors change with rows of more than SWITCH tokens."""
    torch.manual_seed(0)
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4,
        "original_max_position_embeddings": SWITCH,
    }
    config = Phi3Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        original_max_position_embeddings=SWITCH,
        rope_parameters=rope,
        eos_token_id=0,
        pad_token_id=1,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)
    find_route(model, where="student.model")
    return model


@torch.no_grad()
def test_a_short_row_beside_a_long_one_is_read_as_if_alone(longrope) -> None:
    alone = np.concatenate([logits(longrope, ROWS.take([i])) for i in range(3)])
    assert np.abs(logits(longrope, ROWS) - alone).max() < 1e-4
    whole = longrope(torch.tensor([[3, 4, 5, 5]]), use_cache=False).logits[0, 2:]
    assert np.abs(alone[:2] - whole.numpy()).max() < 1e-4


@torch.no_grad()
def test_the_students_start_as_its_teacher_is_read_as_the_student_is(longrope, tmp_path) -> None:
    longrope.save_pretrained(tmp_path)
    tiny_models.tokenizer().save_pretrained(tmp_path)
    config = parse({"student": str(tmp_path), "teacher": {"kind": "self"}, "device": "cpu"})
    teacher = load_models(config, None, Callbacks()).router.teachers[MAIN]
    assert np.abs(logits(teacher.model, ROWS) - logits(longrope, ROWS)).max() < 1e-4


def test_prompts_whose_answers_may_cross_the_switch_are_refused(longrope) -> None:
    check_lengths(longrope, [3, 20], 6, where="student.model")  # 3 + 5 tokens are read at most
    with pytest.raises(UserError, match=r"max_new_tokens 6, the longest of 5 tokens"):
        check_lengths(longrope, [3, 5, 20], 6, where="student.model")
