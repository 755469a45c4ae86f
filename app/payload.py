"""The binary form of a rollout's tokens: what the token view reads in one request.

4 bytes little-endian length of the header, the header as JSON, then the columns, packed; a
column's offset counts from the end of the header, in bytes. Header: n (completion tokens),
columns [{name, dtype, offset, length}], texts {id: {t, b?, s?}}, own_texts (a record's own text of
each token, which goes before `texts`), more (columns that exist but were left out for size).
"""

import hashlib
import struct
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from storage.read.tokens import EXTRA_COLUMNS, MAIN_COLUMNS, TokenView

BYTES_A_TOKEN = 24
SMALL_BYTES = 16_384  # a payload up to this size is sent whole, whatever it comes to a token
ALIGNMENT = 8
MAX_RANK = 65_535


def encode(view: TokenView, *, whole: bool = False) -> bytes:
    """The payload; unless `whole`, extra columns only as far as they fit into BYTES_A_TOKEN."""
    texts = {str(i): entry for i, entry in view.texts.items()}
    columns = {"prompt_ids": view.prompt_ids, **_clipped(view.columns)}
    required = {n: a for n, a in columns.items() if whole or n in ("prompt_ids", *MAIN_COLUMNS)}
    room = max(SMALL_BYTES, BYTES_A_TOKEN * view.n) - len(orjson.dumps([texts, view.own_texts]))
    room -= sum(array.nbytes for array in required.values())
    more = []
    for name in EXTRA_COLUMNS:
        if name not in columns or name in required:
            continue
        if columns[name].nbytes <= room:
            required[name] = columns[name]
            room -= columns[name].nbytes
        else:
            more.append(name)
    ordered = sorted(required.items(), key=lambda item: -item[1].itemsize)
    header = {
        "n": view.n,
        "columns": _layout(ordered),
        "texts": texts,
        "own_texts": view.own_texts,
        "more": more,
    }
    text = orjson.dumps(header)
    text += b" " * (-(len(text) + 4) % ALIGNMENT)
    return b"".join([struct.pack("<I", len(text)), text, *(a.tobytes() for _, a in ordered)])


def etag(payload: bytes) -> str:
    return f'"{hashlib.blake2b(payload, digest_size=16).hexdigest()}"'


def _layout(columns: list[tuple[str, NDArray[Any]]]) -> list[dict[str, Any]]:
    """Where each column lies; the widest come first, so that each is aligned to its items."""
    layout, offset = [], 0
    for name, array in columns:
        entry = {
            "name": name,
            "dtype": array.dtype.str,
            "offset": offset,
            "length": array.nbytes,
        }
        layout.append(entry)
        offset += array.nbytes
    return layout


def _clipped(columns: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Ranks past MAX_RANK, which all read as "far off", are not worth four bytes a token."""
    rank = columns.get("teacher_rank")
    if rank is None or rank.itemsize <= 2:
        return columns
    return {**columns, "teacher_rank": np.minimum(rank, MAX_RANK).astype("<u2")}
