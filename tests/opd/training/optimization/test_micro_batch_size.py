"""Sizes of micro-batches by the memory that a pass takes; the GPU's figures are made up."""

from copy import deepcopy
from dataclasses import replace
from functools import partial

import pytest
import torch

from opd.models.batches import Sequences
from opd.models.load import load_student
from opd.training.optimization import micro_batch_size
from opd.training.optimization.micro_batch_size import MicroBatchSize, peak_of_pass
from tests.support import tiny_models

ROWS = Sequences([[2, 3], [2, 3, 4], [2]], [[5, 6], [5, 6, 7, 8], [5]])


@pytest.fixture
def pair(tmp_path):
    return load_student(tiny_models.save_model(tmp_path / "m"), device=torch.device("cpu"))


@pytest.fixture
def card(monkeypatch):
    """A GPU with `free` bytes. A pass takes 8 kB a token, recomputed 1 kB, and at its end at least
    `gradients`."""

    class Card:
        free = 10**9
        gradients = 10**6
        passes = 0

        def peak(self, pair, rows):
            self.passes += 1
            for parameter in pair.student.parameters():
                assert parameter.grad is None
                parameter.grad = torch.ones_like(parameter)
            each = 1000 if pair.student.is_activation_checkpointing else 8000
            return max(self.gradients, each * sum(rows.lengths))

    card = Card()
    monkeypatch.setattr(micro_batch_size, "allocatable_memory", lambda _: card.free)
    monkeypatch.setattr(micro_batch_size, "peak_of_pass", card.peak)
    return card


def sizes(pair, said=None, *, longest=10, may_recompute=True, optimizer=None):
    return partial(
        MicroBatchSize(
            pair.student,
            optimizer or torch.optim.AdamW(pair.student.parameters()),
            longest_completion=longest,
            may_recompute=may_recompute,
            say=(said if said is not None else []).append,
        ),
        pair,
    )


def test_a_power_of_two_is_measured_once_and_said(pair, card):
    said = []
    choose = sizes(pair, said)
    moments = 8 * sum(p.numel() for p in pair.student.parameters())
    assert choose(ROWS) == choose(ROWS) == 65_536  # 87,500 but for what else there is
    passes = card.passes
    assert choose(ROWS) == 65_536
    assert card.passes == passes
    assert all(p.grad is None for p in pair.student.parameters())
    assert said == [
        "micro-batches of 65536 tokens: 1.0 GB free, of which a pass of 87482 would take 0.7"
    ]
    card.free = moments + 8000 * 3000
    assert sizes(pair)(ROWS) == 2048  # 0.7 of 3000
    assert not pair.student.is_activation_checkpointing


def test_gradients_that_outweigh_the_activations_of_few_rows_do_not_hide_them(pair, card):
    moments = 8 * sum(p.numel() for p in pair.student.parameters())
    card.free = moments + 8000 * 20_000
    card.gradients = 8000 * 5000
    assert sizes(pair)(ROWS) == 8192  # 0.7 of 20,000 hold 14,000


def test_a_little_more_or_less_memory_changes_nothing(pair, card):
    results = set()
    for card.free in range(400_000_000, 500_000_000, 20_000_000):
        results.add(sizes(pair)(ROWS))
    assert results == {32_768}


def test_moments_that_a_resumed_run_holds_take_nothing_more(pair, card):
    moments = 8 * sum(p.numel() for p in pair.student.parameters())
    activations = 8000 * 3000
    card.free = moments + activations
    fresh = sizes(pair)(ROWS)
    held = torch.optim.AdamW(pair.student.parameters(), lr=0.0)
    for parameter in pair.student.parameters():
        parameter.grad = torch.zeros_like(parameter)
    held.step()
    held.zero_grad()
    card.free = activations  # the moments are on the card
    assert sizes(pair, optimizer=held)(ROWS) == fresh == 2048


def test_no_gradient_stays_in_a_copy_that_ran_out_of_memory_handing_it_on(pair, card, monkeypatch):
    copy = deepcopy(pair.student)

    def peak(pair, rows):
        for parameter in copy.parameters():
            parameter.grad = torch.ones_like(parameter)
        raise torch.OutOfMemoryError

    monkeypatch.setattr(micro_batch_size, "peak_of_pass", peak)
    choose = MicroBatchSize(
        pair.student,
        torch.optim.AdamW(pair.student.parameters()),
        longest_completion=10,
        may_recompute=False,
    )
    assert choose(replace(pair, student=copy), ROWS) == 1
    assert all(p.grad is None for p in copy.parameters())


def test_what_does_not_hold_one_row_is_recomputed_where_that_was_left_open(pair, card):
    moments = 8 * sum(p.numel() for p in pair.student.parameters())
    card.free = moments + 8000 * 1000
    said = []
    assert sizes(pair, longest=5000, may_recompute=False)(ROWS) == 512
    assert not pair.student.is_activation_checkpointing
    assert sizes(pair, said, longest=5000)(ROWS) == 4096
    assert pair.student.is_activation_checkpointing
    assert said[0] == (
        "activations are recomputed in the backward pass: a row of 5003 tokens would not fit"
    )


def test_a_row_that_runs_out_of_memory_is_recomputed_or_read_alone(pair, card, monkeypatch):
    def peak(pair, rows):
        if not pair.student.is_activation_checkpointing:
            raise torch.OutOfMemoryError
        return card.peak(pair, rows)

    monkeypatch.setattr(micro_batch_size, "peak_of_pass", peak)
    assert sizes(pair, may_recompute=False)(ROWS) == 1
    assert sizes(pair)(ROWS) == 65_536
    assert pair.student.is_activation_checkpointing


def test_no_pass_is_tried_that_may_not_fit(pair, card, monkeypatch):
    tried = []

    def peak(pair, rows):
        tried.append(card.peak(pair, rows))
        return tried[-1]

    monkeypatch.setattr(micro_batch_size, "peak_of_pass", peak)
    moments = 8 * sum(p.numel() for p in pair.student.parameters())
    card.free, card.gradients = moments + 8000 * 1000, 0
    assert sizes(pair)(ROWS) == 512
    assert max(tried) <= 0.7 * 8000 * 1000
    card.free = moments + 8000 * 8
    assert sizes(pair, may_recompute=False)(ROWS) == 4  # a row of 7 tokens: one a pass


def test_where_two_rows_do_not_fit_one_is_measured(pair, card, monkeypatch):
    def peak(pair, rows):
        if len(rows) > 1:
            raise torch.OutOfMemoryError
        return card.peak(pair, rows)

    monkeypatch.setattr(micro_batch_size, "peak_of_pass", peak)
    moments = 8 * sum(p.numel() for p in pair.student.parameters())
    card.free, card.gradients = moments + 8000 * 12, 0
    assert sizes(pair, may_recompute=False, longest=5)(ROWS) == 8  # 0.7 of 12


def test_the_pass_that_is_measured_is_a_whole_one_and_leaves_the_weights_alone(pair, monkeypatch):
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", lambda _: None)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda _: 100)
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda _: 350)
    before = [p.detach().clone() for p in pair.student.parameters()]
    with_gradient = []
    for parameter in pair.student.parameters():
        parameter.register_hook(with_gradient.append)
    assert peak_of_pass(replace(pair, dtype=torch.bfloat16), ROWS) == 250
    assert with_gradient
    after = list(pair.student.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
