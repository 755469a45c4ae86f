"""One update against plain autograd in float64: pieces, micro-batches, padding and masks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import Qwen3ForCausalLM

from opd.config.models import LoraConfig
from opd.config.run import parse
from opd.data.prompts import Prompt
from opd.models.folders.adapters import with_adapter
from opd.models.forward import causal, completion_hidden, spans
from opd.models.load import Pair, load_pair
from opd.models.routes import pairs_per_token
from opd.sampling.sample import NEVER, Sample
from opd.teachers.local import LocalTeacher
from opd.teachers.routing import TeacherRouter
from opd.training.rollouts import Completion, sequences
from opd.training.scoring import batch_of, measure, reader_of, student_pieces
from opd.training.step.clock import Clock
from opd.training.update import Learner, update
from tests.support import tiny_models
from tests.support.devices.operator_counts import FAKE_CUDA, OperatorCounts, fake_cuda, on_fake_cuda
from tests.support.devices.tested import DEVICE

pytestmark = pytest.mark.device


@pytest.fixture(scope="module", params=tiny_models.KINDS)
def folders(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    return [
        tiny_models.save_model(root / name, request.param, seed=seed, vocab=vocab)
        for name, seed, vocab in (("student", 0, 310), ("teacher", 1, 320))
    ]


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    root = tmp_path_factory.mktemp("qwen")
    return [tiny_models.save_model(root / name) for name in ("student", "teacher")]


def learner(folders, *, reference=False, micro_batch_tokens=100_000, **objective):
    """Plain gradient descent with rate 1: the weights' change is the gradient."""
    config = parse(
        {
            "objective": objective,
            "sampling": {"group_size": 2, "temperature": 0.7},
            "optimizer": {"max_grad_norm": 1e6, "micro_batch_tokens": micro_batch_tokens},
        }
    )
    pair = load_pair(*folders, device=DEVICE)
    if pair.pairs_per_token:  # prompts are shared wherever they can be
        pair = replace(pair, pairs_per_token=1e9)
    pair.student.double()
    pair.teacher.double()
    teacher = LocalTeacher(pair.teacher, reader_of(pair))
    return Learner(
        pair,
        torch.optim.SGD(pair.student.parameters(), lr=1.0),
        config,
        TeacherRouter({"": teacher} if config.needs != "nothing" else {}, config, pair),
        teacher if reference else None,
    )


def rollouts(n=7, vocab=300):
    """Completions of different lengths with made-up sampler log-probabilities and rewards."""
    rng = np.random.default_rng(1)
    written = []
    prompts = [tuple(rng.integers(2, vocab, rng.integers(1, 9)).tolist()) for _ in range(n)]
    for i in range(n):
        prompt = prompts[i // 2]
        ids = np.append(rng.integers(2, vocab, rng.integers(0, 9)), tiny_models.EOS)
        sample = Sample(ids, -rng.random(len(ids)).astype(np.float32) * 3, "stop")
        written.append(
            Completion(Prompt(i // 2, "", prompt, None), i % 2, sample, "", float(i % 3))
        )
    return written


def gradient(student, written):
    """{name: gradient} of an update, from the change of the weights; and what it reports."""
    before = {n: p.detach().clone() for n, p in student.pair.student.named_parameters()}
    done = update(student, written, Clock(), NEVER)
    after = student.pair.student.named_parameters()
    return {n: before[n] - p.detach() for n, p in after}, done


def naive(student, written, loss_of):
    """The same by plain autograd: one unpadded sequence at a time, all logits at once."""
    pair = student.pair
    pair.student.zero_grad()
    losses, weights = [], []
    for w in written:
        ids = torch.tensor([[*w.prompt.ids, *w.sample.completion_ids]], device=DEVICE)
        span = slice(len(w.prompt.ids) - 1, -1)
        p, q = (
            torch.log_softmax(m(ids).logits[0, span, : pair.vocab] / 0.7, -1)
            for m in (pair.student, pair.teacher)
        )
        targets = torch.tensor(w.sample.completion_ids, device=DEVICE)
        losses.append(loss_of(p, q.detach(), targets, w))
        weights.append(len(targets))
    (torch.cat(losses).sum() / sum(weights)).backward()
    return {n: p.grad.clone() for n, p in pair.student.named_parameters()}


def close(result, expected, kind):
    """To 1e-9 in GPT-2; the others normalise and rotate in float32, whatever their weights are."""
    tolerance = {"gpt2": 1e-9, "gemma2": 1e-4}.get(kind, 1e-5)
    scale = max(float(g.abs().max()) for g in expected.values())
    for name, value in expected.items():
        torch.testing.assert_close(
            result[name], value, rtol=tolerance, atol=tolerance * scale / 100, msg=name
        )


def kind_of(student):
    return student.pair.student.config.model_type


def at(logp, ids):
    return logp.gather(-1, ids[:, None])[:, 0]


def reverse_kl(p, q, targets, w):
    return (p.exp() * (p - q)).sum(-1)


def jsd(p, q, targets, w):
    m = torch.log(0.7 * p.exp() + 0.3 * q.exp())
    return 0.3 * (q.exp() * (q - m)).sum(-1) + 0.7 * (p.exp() * (p - m)).sum(-1)


def policy_gradient(p, q, targets, w):
    sampler = torch.from_numpy(w.sample.sampler_logprobs).to(DEVICE)
    advantage = -(sampler - at(q, targets)).detach()
    return -torch.exp(at(p, targets) - sampler) * advantage


def truncated(p, q, targets, w):
    """The ratio at most 1.1, and a constant: what it weighs is ∇log p."""
    sampler = torch.from_numpy(w.sample.sampler_logprobs).to(DEVICE)
    weight = torch.exp(at(p, targets) - sampler).detach().clamp(max=1.1)
    return weight * (sampler - at(q, targets)) * at(p, targets)


def sft(p, q, targets, w):
    return -at(p, targets)


@pytest.mark.parametrize(
    ("objective", "loss_of"),
    [
        ({"name": "reverse_kl"}, reverse_kl),
        ({"name": "jsd", "beta": 0.3}, jsd),
        ({"name": "policy_gradient"}, policy_gradient),
        ({"name": "policy_gradient", "ratio_cap": 1.1}, truncated),
        ({"name": "sft"}, sft),
    ],
    ids=lambda v: v["name"] if isinstance(v, dict) else "",
)
def test_the_gradient_is_that_of_plain_autograd(folders, objective, loss_of, monkeypatch):
    """In micro-batches, right-padded, a few tokens of the vocabulary at a time."""
    monkeypatch.setattr(
        "opd.training.scoring.spans", lambda n, vocab, limit: spans(n, vocab=vocab, limit=3 * vocab)
    )
    student = learner(folders, micro_batch_tokens=64, **objective)
    expected = naive(student, rollouts(), loss_of)
    computed, _ = gradient(student, rollouts())
    close(computed, expected, kind_of(student))


@pytest.mark.parametrize("name", ["reverse_kl", "policy_gradient", "grpo", "student_top_k"])
@pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean", "sum"])
def test_micro_batches_and_pieces_add_up_to_the_whole(folders, name, reduction, monkeypatch):
    objective = {"name": name, "reduction": reduction}
    if name == "grpo":
        objective |= {"reference_kl": 0.1}
    at_once = learner(folders, reference=name == "grpo", **objective)
    whole, report = gradient(at_once, rollouts())
    monkeypatch.setattr(
        "opd.training.scoring.spans", lambda n, vocab, limit: spans(n, vocab=vocab, limit=2 * vocab)
    )
    parts, other = gradient(
        learner(folders, reference=name == "grpo", micro_batch_tokens=64, **objective), rollouts()
    )
    kind = kind_of(at_once)
    assert report.loss == pytest.approx(other.loss, rel=1e-9 if kind == "gpt2" else 1e-6)
    close(parts, whole, kind)
    for a, b in zip(report.records, other.records, strict=True):
        np.testing.assert_allclose(a.student_logprobs, b.student_logprobs, atol=1e-5)


def test_weights_leave_tokens_out_of_loss_gradient_and_count(folders):
    """skip_special: the EOS of every completion adds nothing, and is not counted either."""
    objective = {"name": "reverse_kl", "weighting": {"skip_special": True}}
    student = learner(folders, **objective)
    written = [w for w in rollouts() if len(w.sample.completion_ids) > 1]
    n = sum(len(w.sample.completion_ids) for w in written)

    def without_the_end(p, q, targets, w):
        counted = (targets != tiny_models.EOS).double()
        return counted * reverse_kl(p, q, targets, w) * n / (n - len(written))

    expected = naive(student, written, without_the_end)
    computed, done = gradient(student, written)
    close(computed, expected, kind_of(student))
    for record in done.records:
        assert record.mask.tolist() == [1] * (len(record) - 1) + [0]


def test_a_phase_within_a_phase_is_counted_once():
    clock = Clock()
    with clock.phase("student"):
        with clock.phase("teacher"):
            sum(range(200_000))
        sum(range(10))
    assert clock.seconds["teacher"] > 0.5 * sum(clock.seconds.values())
    assert list(clock.each("sample", iter([1, 2]))) == [1, 2]
    assert clock.seconds["sample"] >= 0


def bfloat16_learner(qwen, *, adapter):
    """A student that computes in bfloat16, its weights in float32 or below an adapter."""
    config = parse(
        {
            "student": {"dtype": "bfloat16"},
            "sampling": {"group_size": 2},
            "optimizer": {"micro_batch_tokens": 64},
        }
    )
    kept = torch.bfloat16 if adapter else torch.float32
    pair = load_pair(*qwen, device=DEVICE, dtype=kept)
    pair.teacher.to(torch.bfloat16)
    student = with_adapter(pair.student, LoraConfig(rank=2)) if adapter else pair.student
    pair = replace(pair, student=student, dtype=torch.bfloat16, pairs_per_token=0.0)
    teacher = LocalTeacher(pair.teacher, reader_of(pair))
    trained = [p for p in student.parameters() if p.requires_grad]
    router = TeacherRouter({"": teacher}, config, pair)
    return Learner(pair, torch.optim.SGD(trained, lr=1.0), config, router)


@pytest.mark.parametrize("adapter", [False, True], ids=["all-weights", "adapter"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "recomputing"])
def test_a_micro_batch_casts_a_weight_once_and_waits_a_few_times(
    qwen, adapter, checkpointing, monkeypatch
):
    """Whatever number of pieces the vocabulary is met in."""
    monkeypatch.setattr(
        "opd.training.scoring.spans", lambda n, vocab, limit: spans(n, vocab=vocab, limit=2 * vocab)
    )
    student = bfloat16_learner(qwen, adapter=adapter)
    if checkpointing:
        causal(student.pair.student).activation_checkpointing_enable(
            activation_checkpointing_kwargs={"use_reentrant": False}
        )
    written, trained = rollouts(12), student.trained
    prompts, whole = [w.prompt for w in written], sequences(written)
    batches = sum(1 for _ in student.router.read(prompts, whole, temperature=1.0, max_tokens=64))
    with OperatorCounts(trained) as counts:
        update(student, written, Clock(), NEVER)
    assert batches > 1
    assert counts.casts
    assert max(counts.casts.values()) <= batches
    # Two kinds of numbers and the loss of each; transformers looks at the positions that each model
    # reads; and the gradient's norm of the step.
    assert counts.waits["cpu"] == 2 * batches
    assert counts.waits.total() - 2 * batches <= 3 * batches + 1


@torch.no_grad()
@pytest.mark.parametrize("adapter", [False, True], ids=["all-weights", "adapter"])
def test_on_a_gpu_rows_are_read_without_masks_and_repeated_keys(adapter, monkeypatch):
    """Both models' reading, all pieces, on fake tensors: what stays on the wrong device fails."""
    monkeypatch.setattr("opd.models.forward.allocatable_memory", lambda _: 2**33)
    written = [w for w in rollouts(8) if len(w.sample.completion_ids) > 1]
    config = tiny_models.config("qwen3", 310)
    student, teacher = (Qwen3ForCausalLM(config).eval() for _ in range(2))
    teacher.bfloat16()
    if adapter:
        student = with_adapter(student.bfloat16(), LoraConfig(rank=2))
    with fake_cuda(monkeypatch):
        student, teacher = on_fake_cuda(student), on_fake_cuda(teacher)
        pair = Pair(
            student=student,
            teacher=teacher,
            tokenizer=None,
            vocab=300,
            eos_ids=(0,),
            pad_id=1,
            folders={},
            device=FAKE_CUDA,
            dtype=torch.bfloat16,
            pairs_per_token=pairs_per_token(student),
        )
        whole = sequences(written)
        with OperatorCounts(student.parameters()) as counts, pair.casting_once():
            (reading,) = LocalTeacher(teacher, reader_of(pair)).read([whole], 0.7)
            batch = batch_of(pair, whole)
            with pair.computing():
                hidden = completion_hidden(pair.student, batch)
            pieces = list(student_pieces(pair, hidden, 0.7))
            for cut, logp in pieces:
                view = reading.view(cut, batch.targets[cut])
                measured = measure(logp, batch.targets[cut], view, 3)
    assert {c.device for c in measured.values()} == {FAKE_CUDA}
    assert pair.pairs_per_token == 0
    assert counts.attention == 2 * config.num_hidden_layers
    assert (counts.masked_attention, counts.repeated_keys) == (0, 0)
    assert counts.waits.total() == 0
    assert max(counts.casts.values()) <= 1
