"""Token records against plain float64 transformers, one unpadded sequence at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from opd.models.batches import Sequences, micro_batches, packs, score_batch, units
from opd.models.forward import completion_hidden, logits_of, spans
from opd.models.load import load_pair
from opd.teachers.local import View
from opd.training.scoring import Scoring, joined, measure, records, score
from tests.support import tiny_models
from tests.support.devices.tested import DEVICE

pytestmark = pytest.mark.device


def sequences(seed=0, n=7, vocab=300):
    rng = np.random.default_rng(seed)
    draw = lambda low, high: rng.integers(2, vocab, rng.integers(low, high)).tolist()  # noqa: E731
    return Sequences(
        [draw(1, 12) for _ in range(n)], [[*draw(1, 15), tiny_models.EOS] for _ in range(n)]
    )


def plain_log_probs(folder, prompt, completion, temperature, vocab):
    """(T, V) float64, by the model's own forward pass over exactly these tokens."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *completion]])).logits[0, :, :vocab]
    return torch.log_softmax(logits[len(prompt) - 1 : -1] / temperature, -1).numpy()


@pytest.fixture(scope="module", params=tiny_models.KINDS)
def folders(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    return [
        tiny_models.save_model(root / name, request.param, seed=seed, vocab=vocab)
        for name, seed, vocab in (("student", 0, 310), ("teacher", 1, 320))
    ]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_records_equal_an_independent_computation(folders, temperature):
    pair = load_pair(*folders, device=DEVICE)
    assert pair.vocab == 310  # the padded vocabularies differ: cut to what is shared
    whole = sequences()
    records = score(pair, whole, Scoring(temperature, 8, micro_batch_tokens=64))
    for prompt, completion, record in zip(whole.prompts, whole.completions, records, strict=True):
        p, q = (plain_log_probs(f, prompt, completion, temperature, 310) for f in folders)
        rows, x = np.arange(len(completion)), np.array(completion)
        expected = {
            "student_logprobs": p[rows, x],
            "teacher_logprobs": q[rows, x],
            "reverse_kl": (np.exp(p) * (p - q)).sum(-1),
            "student_entropy": -(np.exp(p) * p).sum(-1),
            "teacher_entropy": -(np.exp(q) * q).sum(-1),
        }
        for name, values in expected.items():
            np.testing.assert_allclose(getattr(record, name), values, atol=1e-4, err_msg=name)
        assert (record.teacher_rank == (q > q[rows, x][:, None]).sum(-1)).all()
        for top, ours, other in ((record.student_topk, p, q), (record.teacher_topk, q, p)):
            best = -np.sort(-ours, axis=-1)[:, :8]
            np.testing.assert_allclose(top.logprobs, best, atol=1e-4)
            np.testing.assert_allclose(
                top.other_logprobs, np.take_along_axis(other, top.ids, -1), atol=1e-4
            )
            np.testing.assert_allclose(top.tail_mass, 1 - np.exp(best).sum(-1), atol=1e-5)


def test_result_does_not_depend_on_padding_batch_or_chunks(folders):
    pair = load_pair(*folders, device=DEVICE)
    whole = sequences(seed=2)
    together = score(pair, whole, Scoring(micro_batch_tokens=100_000))
    for i, record in enumerate(together):
        (alone,) = score(pair, whole.take([i]), Scoring())
        np.testing.assert_allclose(record.reverse_kl, alone.reverse_kl, atol=2e-5)
        np.testing.assert_allclose(record.teacher_logprobs, alone.teacher_logprobs, atol=2e-5)


def test_pieces_of_the_vocabulary_add_up_to_the_whole(folders, monkeypatch):
    pair = load_pair(*folders, device=DEVICE)
    whole = sequences(seed=5)
    at_once = score(pair, whole, Scoring())
    three = lambda n, vocab, limit: spans(n, vocab=vocab, limit=3 * vocab)  # noqa: E731
    monkeypatch.setattr("opd.training.scoring.spans", three)
    in_pieces = score(pair, whole, Scoring())
    for a, b in zip(at_once, in_pieces, strict=True):
        np.testing.assert_allclose(a.reverse_kl, b.reverse_kl, atol=1e-6)
        assert (a.teacher_rank == b.teacher_rank).all()
        assert (a.student_topk.ids == b.student_topk.ids).all()
        np.testing.assert_allclose(
            a.teacher_topk.other_logprobs, b.teacher_topk.other_logprobs, atol=1e-6
        )


def test_spans_cover_every_token_once_within_the_limit():
    for tokens, vocab, limit in ((10, 5, 15), (1, 100, 10), (7, 3, 1000)):
        cuts = spans(tokens, vocab=vocab, limit=limit)
        assert [i for cut in cuts for i in range(tokens)[cut]] == list(range(tokens))
        assert all((c.stop - c.start) * vocab <= max(limit, vocab) for c in cuts)


def test_what_a_teacher_does_not_say_is_none():
    """A server names the sampled token and its likeliest ones; the rest is not made up."""
    student = torch.log_softmax(torch.randn(3, 9), -1)
    teacher = torch.log_softmax(torch.randn(3, 9), -1)
    targets = torch.tensor([0, 1, 2])
    top, ids = teacher.topk(4, dim=-1)
    at = teacher.gather(-1, targets[:, None])[:, 0]
    view = View(at, torch.tensor([2, 0, 1]), None, ids, top)
    record = joined([measure(student, targets, view, 3)])
    assert record.reverse_kl is None
    assert record.teacher_entropy is None
    assert record.student_topk.other_logprobs is None
    assert (record.teacher_topk.ids == ids[:, :3].numpy()).all()
    np.testing.assert_allclose(
        record.teacher_topk.tail_mass, 1 - top[:, :3].exp().sum(-1).numpy(), atol=1e-6
    )
    assert (record.same_top == (student.argmax(-1) == teacher.argmax(-1)).numpy()).all()
    alone = measure(student, targets, None, 3)
    assert joined([alone]).teacher_logprobs is None
    assert joined([alone, alone]).student_topk.ids.shape == (6, 3)


def test_dropout_is_off(folders):
    pair = load_pair(*folders, device=DEVICE)
    whole = sequences(n=2)
    first, second = (score(pair, whole, Scoring()) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert (a.student_logprobs == b.student_logprobs).all()


def test_teacher_equal_to_student_gives_zero(folders):
    pair = load_pair(folders[0], folders[0], device=DEVICE)
    for record in score(pair, sequences(), Scoring()):
        assert (record.reverse_kl == 0).all()
        assert (record.student_logprobs == record.teacher_logprobs).all()


def test_logits_of_one_position_score_the_next_token(folders):
    """Off by one: changing the last token changes nothing but its own score."""
    pair = load_pair(*folders, device=DEVICE)
    a, b = [5, 9, 11, 20], [5, 9, 11, 21]
    one, two = score(pair, Sequences([[4, 8], [4, 8]], [a, b]), Scoring())
    assert (one.student_logprobs[:3] == two.student_logprobs[:3]).all()
    assert (one.reverse_kl == two.reverse_kl).all()  # of the state before the token, not after
    assert one.student_logprobs[3] != two.student_logprobs[3]


def test_the_pad_id_may_be_the_eos_id(tmp_path):
    folder = tiny_models.save_model(tmp_path / "m", pad_is_eos=True)
    pair = load_pair(folder, folder, device=DEVICE)
    assert pair.pad_id == tiny_models.EOS
    whole = Sequences([[4], [4, 5, 6]], [[7, tiny_models.EOS], [7, 8, 9, 10, tiny_models.EOS]])
    records = score(pair, whole, Scoring())
    assert [len(r) for r in records] == [2, 5]
    assert all((r.mask == 1).all() for r in records)


def test_no_logits_are_made_for_prompts_and_padding(folders):
    pair = load_pair(*folders, device=DEVICE)
    batch = score_batch(Sequences([[4] * 9, [4]], [[5], [6, 7, 8]]), pad_id=1, device=DEVICE)
    seen = []
    handle = pair.student.get_output_embeddings().register_forward_hook(
        lambda module, args, output: seen.append(output.shape[:-1])
    )
    logits = logits_of(pair.student, completion_hidden(pair.student, batch), vocab=pair.vocab)
    handle.remove()
    assert [n for _, n in seen] == [4]
    assert logits.shape == (4, pair.vocab)
    assert batch.lengths == (1, 3)


def test_micro_batches_hold_every_row_once_within_the_limit():
    whole = sequences(n=20)
    batches = micro_batches(units(whole), max_tokens=60)
    assert sorted(i for rows in batches for i in rows) == list(range(20))
    for rows in batches:
        read = max(whole.lengths[i] - 1 for i in rows)  # the last token scores nothing
        assert len(rows) * read <= 60 or len(rows) == 1


def sharing(prompt, completions, others=()):
    return Sequences(
        [[*prompt]] * completions + [list(p) for p in others],
        [
            [*[5 + i, 6, 7, 8][: 1 + i % 4], tiny_models.EOS]
            for i in range(completions + len(others))
        ],
    )


def test_prompts_are_shared_where_that_costs_less():
    whole = sharing(range(2, 12), 4, others=[[3, 4]])
    assert packs(whole, pairs_per_token=0) == [[0], [1], [2], [3], [4]]
    assert packs(whole, pairs_per_token=1e9) == [[0, 1, 2, 3], [4]]
    assert packs(whole, pairs_per_token=1e-3) == [[0], [1], [2], [3], [4]]  # pairs cost too much
    assert units(whole, pairs_per_token=1e9) == [([0, 1, 2, 3], 10 + 1 + 2 + 3 + 4), ([4], 3)]


def test_a_shared_row_by_hand():
    """Two completions of one prompt: positions start again, neither sees the other."""
    whole = Sequences([[4, 8], [4, 8]], [[5, 6, 0], [7, 0]])
    batch = score_batch(whole, pad_id=1, device=DEVICE, pairs_per_token=1e9)
    assert batch.input_ids.tolist() == [[4, 8, 5, 6, 7]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 2]]
    assert batch.scored_by.tolist() == [1, 2, 3, 1, 4]
    assert batch.targets.tolist() == [5, 6, 0, 7, 0]
    assert batch.sees[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]


def test_sharing_a_prompt_changes_no_number(folders):
    """Where the attention takes no such mask (Gemma 2's windows), nothing is shared."""
    pair = load_pair(*folders, device=DEVICE)
    whole = sharing(range(2, 12), 4, others=[[3, 4], [3, 4], [9]])
    windows = pair.student.config.model_type == "gemma2"
    assert (pair.pairs_per_token == 0) == (windows or DEVICE.type != "cpu")
    together = score(replace(pair, pairs_per_token=0 if windows else 1e9), whole, Scoring())
    apart = score(replace(pair, pairs_per_token=0), whole, Scoring())
    for a, b in zip(together, apart, strict=True):
        for name in ("student_logprobs", "teacher_logprobs", "reverse_kl"):
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=5e-5)


def test_empty_completion_and_wrong_length_are_named():
    with pytest.raises(ValueError, match="sequence 1: the completion is empty"):
        Sequences([[1], [2]], [[3], []])
    logp = torch.log_softmax(torch.randn(3, 5), -1)
    measures = joined([measure(logp, torch.tensor([0, 1, 2]), None, 2)])
    with pytest.raises(ValueError, match="measured 3 tokens for completions of 4"):
        records(measures, [np.array([0, 1]), np.array([2, 3])])
