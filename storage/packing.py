"""Token records as packed little-endian arrays: one blob a quantity, each under its own CRC32.

Nats are float32, bit for bit. Ids and ranks take the smallest unsigned integer that holds their
maximum; a mask of zeros and ones takes one bit a token, any other mask float32. The layout names
dtype and CRC of every blob; the CRC covers name, dtype, shape and bytes.
"""

import math
import zlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from opd.errors import ErrorKind, UserError
from opd.types import FLOAT_COLUMNS, TokenRecord, TopK

VERSION = 1
TOPK_PARTS = {"ids": "ids", "logprobs": "logprobs", "other": "other_logprobs", "tail": "tail_mass"}
TOPK_COLUMNS = tuple(
    f"{side}_topk_{part}" for side in ("student", "teacher") for part in TOPK_PARTS
)
COLUMNS = ("completion_ids", *FLOAT_COLUMNS, "teacher_rank", "mask", *TOPK_COLUMNS)

_UNSIGNED = (np.dtype("<u1"), np.dtype("<u2"), np.dtype("<u4"))
_LIMITS = {size: 256**size - 1 for size in (1, 2, 4)}
_FLOAT = np.dtype("<f4")
_BITS = "bits"
PROMPT_ID_BYTES = 4
_READABLE = {dtype.str: dtype for dtype in (*_UNSIGNED, _FLOAT)}

Array = NDArray[Any]


class DamagedRecord(UserError):
    """A token record whose bytes are not those that were written."""

    def __init__(self, rollout_id: str, column: str, why: str) -> None:
        super().__init__(
            f"the token record is damaged ({column}: {why})",
            where=rollout_id,
            kind=ErrorKind.DAMAGED_RECORD,
        )
        self.rollout_id = rollout_id
        self.column = column


def pack(record: TokenRecord) -> dict[str, Any]:
    """The record as a row of token_record: version, layout and a blob or None a column."""
    layout: dict[str, list[Any]] = {"": [len(record)]}
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    for name, array in _arrays(record).items():
        code, data = _encode(name, array)
        shape = list(array.shape[1:])
        row[name] = data
        layout[name] = [code, _crc(name, code, array.shape, data), *shape]
    row["version"] = VERSION
    row["layout"] = orjson.dumps(layout)
    return row


def unpack(
    rollout_id: str, row: Mapping[str, Any], columns: Collection[str] = COLUMNS
) -> dict[str, Array]:
    """The present ones of `columns` as arrays, read-only views where possible.

    `row` needs version, layout and those columns. Raises DamagedRecord.
    """
    layout = _layout(rollout_id, row)
    length = layout.pop("")
    return {
        name: _decode(rollout_id, name, (length, *layout[name][2:]), (layout[name], row[name]))
        for name in _present(rollout_id, layout, row, columns)
    }


def size(row: Mapping[str, Any]) -> int:
    """Bytes of a packed row."""
    return len(row["layout"]) + sum(len(row[name]) for name in COLUMNS if row[name] is not None)


def smallest_unsigned(array: Array) -> Array:
    """The same numbers in u1, u2 or u4. Raises UserError for one that is negative or too large."""
    if not array.size:
        return array.astype(_UNSIGNED[0])
    if array.dtype == np.int64:
        array = array.view(np.uint64)  # negative numbers become huge ones: one pass finds both
    highest = int(array.max())
    for dtype in _UNSIGNED:
        fits = highest <= _LIMITS[dtype.itemsize]
        if fits and (array.dtype.kind == "u" or int(array.min()) >= 0):
            return array.astype(dtype)
    raise UserError("token ids and ranks must be 0 to 2³² − 1")


def wide_unsigned(ids: Array) -> bytes:
    """Token ids as little-endian u4. Raises UserError for one that does not fit."""
    return smallest_unsigned(np.asarray(ids)).astype(_UNSIGNED[-1]).tobytes()


def _arrays(record: TokenRecord) -> dict[str, Array]:
    arrays: dict[str, Any] = {
        name: getattr(record, name)
        for name in ("completion_ids", *FLOAT_COLUMNS, "teacher_rank", "mask")
    }
    for side in ("student", "teacher"):
        topk: TopK | None = getattr(record, f"{side}_topk")
        for part, field in TOPK_PARTS.items():
            arrays[f"{side}_topk_{part}"] = None if topk is None else getattr(topk, field)
    present = {name: np.asarray(array) for name, array in arrays.items() if array is not None}
    for name, array in present.items():
        if len(array) != len(record):
            raise UserError(
                f"{name} has {len(array)} values for {len(record)} completion tokens", where=name
            )
    return present


def _encode(name: str, array: Array) -> tuple[str, bytes]:
    if name == "completion_ids" or name == "teacher_rank" or name.endswith("_ids"):
        packed = smallest_unsigned(array)
    elif name == "mask" and bool(((array == 0) | (array == 1)).all()):
        return _BITS, np.packbits(array != 0).tobytes()
    else:
        packed = np.ascontiguousarray(array, _FLOAT)
    return packed.dtype.str, packed.tobytes()


def _crc(name: str, code: str, shape: tuple[int, ...], data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(f"{name} {code} {shape}".encode()))


def _layout(rollout_id: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Column → [dtype, crc, inner shape …]; under the empty name, the number of tokens."""
    if row.get("version") != VERSION:
        raise DamagedRecord(rollout_id, "version", f"unknown: {row.get('version')}")
    try:
        layout = orjson.loads(row["layout"])
        length = layout.pop("")[0]
        sound = isinstance(length, int) and set(layout) <= set(COLUMNS) and length >= 0
        for entry in layout.values():
            code, *numbers = entry
            sound &= (code == _BITS or code in _READABLE) and len(numbers) in (1, 2)
            sound &= all(isinstance(number, int) and number >= 0 for number in numbers)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        sound = False
    if not sound or "completion_ids" not in layout:
        raise DamagedRecord(rollout_id, "layout", "unreadable")
    return {"": length, **layout}


def _present(
    rollout_id: str, layout: Mapping[str, Any], row: Mapping[str, Any], columns: Collection[str]
) -> list[str]:
    for name in columns:
        if (name in layout) != (row[name] is not None):
            raise DamagedRecord(rollout_id, name, "in the layout or in the record, not in both")
    return [name for name in COLUMNS if name in columns and name in layout]


def _decode(
    rollout_id: str, name: str, shape: tuple[int, ...], stored: tuple[list[Any], bytes]
) -> Array:
    (code, crc, *_), data = stored
    if _crc(name, code, shape, data) != crc:
        raise DamagedRecord(rollout_id, name, "its CRC32 does not fit")
    if code == _BITS:
        bits: Array = np.unpackbits(np.frombuffer(data, np.uint8), count=shape[0])
        return bits
    return np.frombuffer(data, _READABLE[code]).reshape(shape)


def finite(value: float | None) -> float | None:
    """The value, or None for one that is not a number or infinite."""
    return float(value) if value is not None and math.isfinite(value) else None
