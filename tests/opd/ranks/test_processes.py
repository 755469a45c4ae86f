"""Several processes against one: what they exchange, how they fail, and whole runs."""

import os
import signal
from functools import partial

import numpy as np
import pytest
import torch

from opd.errors import ErrorKind, UserError
from opd.ranks.group import ALONE
from opd.sampling.sample import Stopped
from opd.training import loading
from opd.training.trainer import Training
from opd.types import CheckpointEvent, StepEvent
from tests.support import tiny_models
from tests.support.devices.rank_processes import on_ranks
from tests.support.devices.shared_runs import STUDENTS, assert_alike, of, settings, trained


def exchanged(ranks):
    return {
        "each": ranks.each(lambda: ranks.rank * 10),
        "first": ranks.first(f"of {ranks.rank}"),
        "shared": ranks.shared(range(5), lambda part: [n * n for n in part]),
        "one has nothing": ranks.shared([7], lambda part: [n + 1 for n in part]),
    }


def test_what_is_exchanged(tmp_path):
    for answer in on_ranks(2, exchanged, tmp_path / "r"):
        assert answer == {
            "each": [0, 10],
            "first": "of 0",
            "shared": [0, 1, 4, 9, 16],
            "one has nothing": [8],
        }


def failing(ranks, *, error, who):
    def work():
        if ranks.rank == who:
            raise error
        return "fine"

    return ranks.each(work)


@pytest.mark.parametrize("who", [0, 1])
def test_what_fails_on_one_fails_on_all(tmp_path, who):
    lack = UserError("too large", where="sampling", kind=ErrorKind.OUT_OF_MEMORY)
    answers = on_ranks(2, partial(failing, error=lack, who=who), tmp_path / "r")
    ours, other = answers[who], answers[1 - who]
    assert str(ours) == "sampling: too large"
    assert str(other) == f"sampling: too large (in process {who + 1} of 2)"
    assert other.kind == ErrorKind.OUT_OF_MEMORY


def test_a_stop_on_one_is_one_for_all(tmp_path):
    answers = on_ranks(2, partial(failing, error=Stopped(), who=1), tmp_path / "r")
    assert all(isinstance(a, Stopped) for a in answers)


def told_to_stop(ranks):
    stop, looks = ranks.stop(lambda: True), 0
    if ranks.leads:
        assert stop()
    ranks.together(lambda: None)
    while not stop():
        looks += 1
    return True


def test_the_first_process_says_when_to_stop(tmp_path):
    assert on_ranks(2, told_to_stop, tmp_path / "r") == [True, True]


def left(ranks):
    if ranks.leads:
        ranks.leave()
        return "left"
    return ranks.together(lambda: None)


def test_who_leaves_ends_the_others(tmp_path):
    first, second = on_ranks(2, left, tmp_path / "r")
    assert first == "left"
    assert isinstance(second, Stopped)


def killed(ranks):
    if not ranks.leads:
        os.kill(os.getpid(), signal.SIGKILL)
    return ranks.each(lambda: None)


def test_a_killed_process_is_noticed_at_once(tmp_path):
    (error,) = on_ranks(2, killed, tmp_path / "r", answers=1)
    assert isinstance(error, UserError)
    assert "another process of this run has ended" in str(error)


def added(ranks):
    both, one, none = (torch.nn.Parameter(torch.zeros(3)) for _ in range(3))
    both.grad = torch.full((3,), 1.0 + ranks.rank)
    if not ranks.leads:
        one.grad = torch.ones(3)
    half = torch.nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))
    half.grad = torch.full((2,), 0.5, dtype=torch.bfloat16)
    ranks.add_gradients([both, one, none, half])
    return both.grad.tolist(), one.grad.tolist(), none.grad, half.grad.tolist()


def test_gradients_are_added_where_any_process_has_some(tmp_path):
    for answer in on_ranks(2, added, tmp_path / "r"):
        assert answer == ([3.0] * 3, [1.0] * 3, None, [1.0] * 2)


def parted(ranks):
    ranks.check_same("this", lambda: "same")
    return ranks.check_same("the norm", lambda: ranks.rank)


def test_processes_that_have_parted_are_refused(tmp_path):
    for error in on_ranks(2, parted, tmp_path / "r"):
        assert "have parted: the norm is 0, 1" in str(error)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return tiny_models.save_pair(tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("student", STUDENTS.values(), ids=STUDENTS)
def test_eight_steps_are_those_of_one_process(inputs, tmp_path, student):
    config = settings(inputs, student=dict(student))
    one = trained(ALONE, config=config, folder=tmp_path / "one")
    first, second = on_ranks(
        2, partial(trained, config=config, folder=tmp_path / "two"), tmp_path / "r"
    )
    assert_alike(one, first)
    assert not of(CheckpointEvent, second)  # only the first process saves
    assert [e.metrics["loss"] for e in of(StepEvent, first)] == [
        e.metrics["loss"] for e in of(StepEvent, second)
    ]


def test_more_processes_than_rows(inputs, tmp_path):
    sampling = {"prompts_per_step": 1, "group_size": 1, "max_new_tokens": 8}
    config = settings(inputs, steps=2, sampling=sampling)
    one = trained(ALONE, config=config, folder=tmp_path / "one")
    first, *_ = on_ranks(3, partial(trained, config=config, folder=tmp_path / "n"), tmp_path / "r")
    assert_alike(one, first)


def test_a_run_resumes_with_another_number_of_processes(inputs, tmp_path):
    config = settings(inputs)
    one = trained(ALONE, config=config, folder=tmp_path / "one")
    half = config.model_copy(update={"steps": 4})
    begun, _ = on_ranks(2, partial(trained, config=half, folder=tmp_path / "two"), tmp_path / "r")
    folder = of(CheckpointEvent, begun)[-1].path
    rest = trained(ALONE, config=config, folder=tmp_path / "two", resume_from=tmp_path / folder)
    assert [e.step for e in of(StepEvent, rest)] == [5, 6, 7, 8]
    for a, b in zip(of(StepEvent, one)[4:], of(StepEvent, rest), strict=True):
        assert b.metrics["loss"] == pytest.approx(a.metrics["loss"], rel=1e-4)


def gradient(ranks, *, config, folder, monkeypatch):
    """Of the first step, in float64, as the optimizer would find it."""
    monkeypatch.setitem(loading.DTYPES, "float32", torch.float64)
    gradients = {}

    class Seen(Training):
        def _load(self):
            loaded = super()._load()
            student, step = loaded.pair.student, loaded.learner.optimizer.step
            student.double()

            def look(*args):
                gradients.update({n: p.grad.clone() for n, p in student.named_parameters()})
                return step(*args)

            loaded.learner.optimizer.step = look
            return loaded

    events = list(Seen(config, folder, ranks=ranks).events())
    return {n: g.numpy() for n, g in gradients.items()}, of(StepEvent, events)[0].metrics["loss"]


def test_the_first_gradient_in_float64(inputs, tmp_path, monkeypatch):
    config = settings(inputs, steps=1, checkpoints={"every": 0}, optimizer={"max_grad_norm": 1e6})
    work = partial(gradient, config=config, folder=tmp_path / "run", monkeypatch=monkeypatch)
    alone, loss = work(ALONE)
    (shared, same_loss), _ = on_ranks(2, work, tmp_path / "r")
    assert same_loss == pytest.approx(loss, rel=1e-9)
    assert alone.keys() == shared.keys()
    for name, expected in alone.items():
        assert expected.dtype == np.float64
        apart = np.linalg.norm(expected - shared[name])
        assert apart <= 1e-6 * np.linalg.norm(expected), name
