"""Packed token records: exact round trips, and no changed byte that goes unnoticed."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from opd.errors import UserError
from opd.types import FLOAT_COLUMNS, TokenRecord, TopK
from storage import packing
from tests.support import stored_runs

IDS = st.integers(0, 2**32 - 1)
NATS = st.floats(width=32, allow_nan=True, allow_infinity=True)
UNSIGNED_ZERO = NATS.map(lambda x: x + 0.0)  # a mask of bits does not keep the sign of −0


@st.composite
def records(draw: st.DrawFn) -> TokenRecord:
    n = draw(st.integers(0, 12))
    k = draw(st.integers(0, 3))

    def ids(*shape: int) -> Any:
        return draw(hnp.arrays(np.int64, shape, elements=IDS))

    def nats(*shape: int) -> Any:
        return draw(hnp.arrays(np.float32, shape, elements=NATS))

    def maybe(make: Any, *shape: int) -> Any:
        return make(*shape) if draw(st.booleans()) else None

    def topk() -> TopK:
        return TopK(ids(n, k), nats(n, k), nats(n, k), nats(n))

    weights = hnp.arrays(np.float32, n, elements=st.sampled_from([0.0, 1.0]) | UNSIGNED_ZERO)
    return TokenRecord(
        completion_ids=ids(n),
        **{name: maybe(nats, n) for name in FLOAT_COLUMNS},
        teacher_rank=maybe(ids, n),
        mask=draw(st.none() | weights),
        student_topk=maybe(topk),
        teacher_topk=maybe(topk),
    )


def as_record(row: Mapping[str, Any]) -> TokenRecord:
    """The inverse of `packing.pack`, with ids and ranks as int64."""
    arrays = packing.unpack("roll-x", row)
    values: dict[str, Any] = {name: arrays.get(name) for name in FLOAT_COLUMNS}
    for name in ("completion_ids", "teacher_rank"):
        values[name] = arrays[name].astype(np.int64) if name in arrays else None
    values["mask"] = arrays["mask"].astype(np.float32) if "mask" in arrays else None
    for side in ("student", "teacher"):
        parts: dict[str, Any] = {
            field: arrays.get(f"{side}_topk_{part}") for part, field in packing.TOPK_PARTS.items()
        }
        listed = parts["ids"] is not None
        values[f"{side}_topk"] = (
            TopK(**{**parts, "ids": parts["ids"].astype(np.int64)}) if listed else None
        )
    return TokenRecord(**values)


def same(a: Any, b: Any) -> bool:
    if a is None or b is None:
        return a is b
    if isinstance(a, TopK):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(TopK))
    return bool(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes())


@settings(max_examples=60, deadline=None)
@given(records())
def test_a_record_comes_back_bit_for_bit(record: TokenRecord) -> None:
    back = as_record(packing.pack(record))
    for field in fields(TokenRecord):
        assert same(getattr(record, field.name), getattr(back, field.name)), field.name


@settings(deadline=None)
@given(st.lists(IDS, min_size=1, max_size=20))
def test_ids_take_the_smallest_integer_that_holds_them(ids: list[int]) -> None:
    packed = packing.smallest_unsigned(np.array(ids))
    assert packed.tolist() == ids
    assert packed.dtype.itemsize == next(s for s in (1, 2, 4) if max(ids) < 256**s)


@pytest.mark.parametrize("wrong", [-1, 2**32, -(2**63)])
def test_ids_that_do_not_fit_are_refused(wrong: int) -> None:
    with pytest.raises(UserError):
        packing.smallest_unsigned(np.array([3, wrong]))


def test_lengths_that_differ_are_refused_by_name() -> None:
    with pytest.raises(UserError, match="reverse_kl has 3 values for 20"):
        packing.pack(replace(stored_runs.record(20), reverse_kl=np.zeros(3, np.float32)))


def test_bytes_a_token() -> None:
    """Seven nats, an id and a rank under a large vocabulary, and the mask: at most 36 bytes."""
    record = replace(
        stored_runs.record(1000, k=0),
        completion_ids=np.full(1000, 151_000),
        advantages=np.zeros(1000, np.float32),
    )
    assert packing.size(packing.pack(record)) <= 36_000


def test_every_flipped_byte_is_detected() -> None:
    record = replace(stored_runs.record(7, k=2), advantages=np.zeros(7, np.float32))
    row = packing.pack(record)
    flips = 0
    for name in ("layout", *packing.COLUMNS):
        data = row[name]
        for at in range(len(data)):
            for bits in (0x01, 0x80, 0xFF):
                changed = bytearray(data)
                changed[at] ^= bits
                with pytest.raises(packing.DamagedRecord):
                    packing.unpack("roll-x", {**row, name: bytes(changed)})
                flips += 1
    assert flips > 2000


@pytest.mark.parametrize("name", packing.COLUMNS)
def test_a_lost_or_swapped_or_cut_column_is_detected(name: str) -> None:
    row = packing.pack(replace(stored_runs.record(7), advantages=np.ones(7, np.float32)))
    other = packing.pack(stored_runs.record(7, seed=1))
    others = [None, row[name][:-1], row[name] + b"\0", b""]
    others += [other[name]] if other[name] is not None and name != "mask" else []
    for data in others:
        with pytest.raises(packing.DamagedRecord) as caught:
            packing.unpack("roll-x", {**row, name: data})
        assert caught.value.column == name
        assert caught.value.rollout_id == "roll-x"


def test_an_unknown_version_is_not_guessed_at() -> None:
    with pytest.raises(packing.DamagedRecord, match="version"):
        packing.unpack("roll-x", {**packing.pack(stored_runs.record()), "version": 2})


def test_columns_can_be_read_alone() -> None:
    row = packing.pack(stored_runs.record())
    alone = {name: row[name] for name in ("version", "layout", "reverse_kl")}
    assert list(packing.unpack("roll-x", alone, ("reverse_kl",))) == ["reverse_kl"]
