"""float32 weights learn through their bfloat16 copy: the gradient, its sums, and what is cast."""

from dataclasses import replace

import pytest
import torch

from opd.config.run import parse
from opd.data.prompts import Prompt
from opd.models.load import load_pair
from opd.sampling.sample import NEVER, Sample
from opd.sampling.sampling_copy import SamplingCopy
from opd.teachers.local import LocalTeacher
from opd.teachers.routing import TeacherRouter
from opd.training.optimization.compute_copy import ComputeCopy
from opd.training.rollouts import Completion
from opd.training.scoring import reader_of
from opd.training.step.clock import Clock
from opd.training.update import Learner, update
from tests.support import tiny_models
from tests.support.devices.operator_counts import OperatorCounts


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("copies")
    return [
        tiny_models.save_model(root / name, seed=seed, scale=2.0)
        for seed, name in enumerate(("student", "teacher"))
    ]


def learner(folders, dtype=torch.bfloat16, tokens=64):
    config = parse({"sampling": {"group_size": 1}, "optimizer": {"micro_batch_tokens": tokens}})
    pair = replace(load_pair(*folders, device=torch.device("cpu")), dtype=dtype)
    if dtype == torch.bfloat16:
        pair = replace(pair, sampling_copy=SamplingCopy(pair.student, dtype))
    teacher = LocalTeacher(pair.teacher, reader_of(pair))
    return Learner(
        pair,
        torch.optim.SGD(pair.student.parameters(), lr=1.0),
        config,
        TeacherRouter({"": teacher}, config, pair),
        copy=ComputeCopy(pair) if dtype == torch.bfloat16 else None,
    )


def written(count=10):
    random = torch.Generator().manual_seed(3)
    ids = torch.randint(2, 300, (count, 12), generator=random).tolist()
    return [
        Completion(
            Prompt(i, "", tuple(row[:5]), None),
            0,
            Sample(torch.tensor(row[5:]).numpy(), None, "length"),
            "",
            None,
        )
        for i, row in enumerate(ids)
    ]


def change(student):
    """What a step of plain descent takes from the weights: the gradient, clipped to 1."""
    before = [p.detach().clone() for p in student.trained]
    done = update(student, written(), Clock(), NEVER)
    after = student.trained
    return torch.cat([(b - a.detach()).flatten() for b, a in zip(before, after, strict=True)]), done


def test_the_gradient_is_that_of_float32_but_for_rounding(folders):
    exact, exact_done = change(learner(folders, torch.float32))
    changed, done = change(learner(folders))
    assert changed.dtype == torch.float32
    assert torch.cosine_similarity(changed, exact, dim=0) > 0.998
    assert done.grad_norm == pytest.approx(exact_done.grad_norm, rel=0.02)
    assert done.loss == pytest.approx(exact_done.loss, rel=0.02)
    for one, other in zip(done.records, exact_done.records, strict=True):
        assert abs(one.student_logprobs - other.student_logprobs).max() < 0.1


def test_micro_batches_add_up_in_float32_and_leave_nothing_in_the_copy(folders):
    student = learner(folders)
    parts, _ = change(student)
    whole, _ = change(learner(folders, tokens=100_000))
    assert torch.cosine_similarity(parts, whole, dim=0) > 0.9999
    copy = student.copy().student
    assert all(p.grad is None for p in copy.parameters())
    copies = dict(copy.named_parameters())
    for name, weight in student.pair.student.named_parameters():  # brought up to date
        assert torch.equal(copies[name], weight.bfloat16())


def test_an_update_casts_no_weight_and_no_activation_between_products(folders):
    student = learner(folders)
    student.copy()
    weights = [*student.trained, *student.copy().student.parameters()]
    with OperatorCounts(weights) as counts:
        update(student, written(), Clock(), NEVER)
    # Each gradient to float32 once a backward pass, and none of the weights for a product.
    assert set(counts.casts.values()) <= {0}


def test_without_memory_for_a_copy_the_student_computes_itself(folders, monkeypatch):
    monkeypatch.setattr("opd.sampling.sampling_copy.free_bytes", lambda _: 0)
    student = learner(folders)
    assert student.copy() is student.pair
    changed, _ = change(student)
    exact, _ = change(learner(folders, torch.float32))
    assert torch.cosine_similarity(changed, exact, dim=0) > 0.998
