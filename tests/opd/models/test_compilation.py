"""torch.compile around an update: tried, compared, given up where it fails.

No machine code is made here: what is traced runs as it is.
"""

import gc
import json
import weakref

import pytest
import torch
from torch import _dynamo as dynamo

from opd.config.run import parse
from opd.models import compilation
from opd.models.compilation import Compilation, compilable
from opd.models.load import load_pair
from opd.training.trainer import Training
from opd.types import StepEvent
from tests.support import tiny_models


@pytest.fixture(autouse=True)
def traced(monkeypatch):
    """What one run has traced serves the next, as far as its guards allow."""
    monkeypatch.setattr(compilation, "BACKEND", "aot_eager")
    with dynamo.config.patch(recompile_limit=64, fail_on_recompile_limit_hit=True):
        yield


@pytest.fixture(scope="module", autouse=True)
def left_untraced():
    yield
    forget()


@pytest.fixture
def untraced():
    """Nothing is traced yet, and nothing of it stays."""
    forget()
    yield
    forget()


def forget():
    dynamo.reset()
    compilation._compiled.cache_clear()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("compilation")
    tiny_models.save_model(root / "student", seed=0, scale=3.0)
    tiny_models.save_model(root / "teacher", seed=1, scale=3.0)
    lines = [json.dumps({"prompt": "x " * i, "answer": "3"}) for i in range(1, 20)]
    (root / "prompts.jsonl").write_text("\n".join(lines))
    return root


def settings(inputs, *, compiled, steps=3, **changes):
    return parse(
        {
            "student": {"model": str(inputs / "student"), **changes.pop("student", {})},
            "teacher": str(inputs / "teacher"),
            "prompts": str(inputs / "prompts.jsonl"),
            "steps": steps,
            "device": "cpu",
            "threads": 1,
            "sampling": {"prompts_per_step": 3, "group_size": 2, "max_new_tokens": 8},
            "evaluation": {"prompts": 1, "temperatures": [0]},
            "optimizer": {"learning_rate": 1e-2, "compile": compiled},
            **changes,
        }
    )


def steps(config, folder, said=None):
    say = (said if said is not None else []).append
    return [e for e in Training(config, folder, say=say).events() if isinstance(e, StepEvent)]


def loss(step):
    return step.metrics["loss"]


@pytest.fixture
def graphs(monkeypatch, untraced):
    """The graphs that are handed to a compiler, by what they are called with."""
    seen = []

    def backend(graph, inputs):
        seen.append(inputs)
        return graph.forward

    monkeypatch.setattr(compilation, "BACKEND", backend)
    return seen


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"objective": {"name": "jsd"}},
        {"objective": {"name": "policy_gradient"}},
        {"student": {"lora": {"rank": 4}, "gradient_checkpointing": True}},
        {"teacher": {"kind": "ema"}},
    ],
    ids=["all weights", "jsd", "policy gradient", "adapter, recomputed", "average"],
)
def test_a_compiled_run_has_the_losses_of_one_that_is_not(inputs, tmp_path, changes):
    said = []
    plain, compiled = (
        steps(settings(inputs, compiled=on, **changes), tmp_path / str(on), said)
        for on in (False, True)
    )
    assert list(map(loss, compiled)) == pytest.approx(list(map(loss, plain)), rel=1e-4)
    assert not [line for line in said if "compile" in line]


def test_layers_and_pieces_are_compiled_once_for_rows_of_all_lengths(inputs, tmp_path, graphs):
    steps(settings(inputs, compiled=True, steps=1), tmp_path / "a")
    after_one = len(graphs)
    steps(settings(inputs, compiled=True, steps=6), tmp_path / "b")
    assert 0 < after_one <= 8
    assert len(graphs) <= after_one + 2


def test_a_models_numbers_are_constants(inputs, tmp_path, graphs):
    """As tensors of the host they would be kernels of a processor between those of a GPU."""
    steps(settings(inputs, compiled=True, steps=1), tmp_path / "a")
    tensors = [x for inputs in graphs for x in inputs if isinstance(x, torch.Tensor)]
    assert tensors and all(x.ndim for x in tensors)


@pytest.mark.usefixtures("untraced")
def test_a_compiled_model_is_let_go_of(inputs):
    layer = compiled_layer(inputs)
    gc.collect()
    assert layer() is None


def compiled_layer(inputs):
    """A reference to a layer that has been compiled, whose model nobody holds any more."""
    pair = load_pair(str(inputs / "student"), str(inputs / "teacher"), device=torch.device("cpu"))
    ids = torch.tensor([[5, 6, 7]])

    def states():
        return pair.student.model(input_ids=ids).last_hidden_state.detach()

    with Compilation()([pair.student], states):
        states()
    return weakref.ref(pair.student.model.layers[0])


def test_outside_an_update_nothing_is_compiled(graphs):
    @compilable
    def doubled(x):
        return 2 * x

    assert doubled(torch.ones(3)).tolist() == [2.0] * 3
    assert not graphs


def given_up(inputs, tmp_path):
    """What the log of a run says that has the losses of one that compiles nothing."""
    said = []
    compiled = steps(settings(inputs, compiled=True), tmp_path / "a", said)
    plain = steps(settings(inputs, compiled=False), tmp_path / "b")
    for one, other in zip(compiled, plain, strict=True):
        assert loss(one) == loss(other)
        assert one.metrics["grad_norm"] == other.metrics["grad_norm"]
    (line,) = [line for line in said if "compile" in line]
    return line


@pytest.mark.usefixtures("untraced")
def test_a_compiler_that_fails_is_said_and_done_without(inputs, tmp_path, monkeypatch):
    def broken(graph, inputs):
        raise FileNotFoundError("gcc")

    monkeypatch.setattr(compilation, "BACKEND", broken)
    line = given_up(inputs, tmp_path)
    assert line.startswith("without torch.compile, which failed: ")
    assert "gcc" in line


@pytest.mark.usefixtures("untraced")
def test_a_backward_pass_that_fails_when_tried_leaves_no_gradient(inputs, tmp_path, monkeypatch):
    """The head has its gradient before that of the layers is asked for."""
    real = torch.autograd.backward

    def backward(*args, **options):
        if compilation._ACTIVE.get() and len(args) == 2:  # not from a loss
            raise RuntimeError("no kernel")
        real(*args, **options)

    monkeypatch.setattr(torch.autograd, "backward", backward)
    assert given_up(inputs, tmp_path) == "without torch.compile, which failed: no kernel"


@pytest.mark.usefixtures("untraced")
def test_what_compiles_to_other_numbers_is_not_used(inputs, tmp_path, monkeypatch):
    def wrong(graph, inputs):
        def call(*args):
            return tuple(
                2 * x if isinstance(x, torch.Tensor) and x.is_floating_point() else x
                for x in graph.forward(*args)
            )

        return call

    monkeypatch.setattr(compilation, "BACKEND", wrong)
    line = given_up(inputs, tmp_path)
    assert line.startswith("without torch.compile, whose results differ by ")
