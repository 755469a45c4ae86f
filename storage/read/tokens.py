"""The tokens of one rollout, and its alternatives."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine

from opd.errors import UserError
from storage import packing
from storage.engine import read
from storage.lookups import fingerprint, rollout_row
from storage.packing import finite
from storage.read.rollouts import record_row
from storage.text import text_entry
from storage.vocabulary import Texts, read_texts, text_of

# At most 21 bytes a token; the entropies and the rest come when a view asks for them.
MAIN_COLUMNS = (
    *("completion_ids", "student_logprobs", "teacher_logprobs"),
    *("reverse_kl", "teacher_rank", "mask"),
)
EXTRA_COLUMNS = ("student_entropy", "teacher_entropy", "sampler_logprobs", "advantages")
_SIDES = ("student", "teacher")


@dataclass(frozen=True)
class TokenView:
    """What a token view draws. Arrays have the stored little-endian dtypes; each is n long."""

    n: int  # completion tokens
    prompt_ids: NDArray[Any]
    columns: dict[str, NDArray[Any]]  # the present ones of those asked for
    texts: dict[int, dict[str, Any]]  # id → {"t": text} + {"b": hex} or {"s": true}
    own_texts: dict[str, list[str] | None] | None  # {"prompt", "completion"}; goes before `texts`


def read_tokens(
    engine: Engine, rollout_id: str, columns: Collection[str] = MAIN_COLUMNS
) -> TokenView:
    """The tokens of a rollout with the asked-for columns. Raises DamagedRecord, "not found".

    `texts` are as storage.text.text_entry makes them; the bytes of a part of a character are for
    the reader to join with its neighbours'.
    """
    unknown = set(columns) - {*MAIN_COLUMNS, *EXTRA_COLUMNS}
    if unknown:
        column_names = ", ".join((*MAIN_COLUMNS, *EXTRA_COLUMNS))
        raise UserError(
            f"unknown column {min(unknown)!r:.80}; known: {column_names}", where="columns"
        )
    names = tuple(dict.fromkeys(("completion_ids", *columns)))
    with read(engine) as connection:
        row = rollout_row(connection, rollout_id)
        arrays = packing.unpack(rollout_id, record_row(connection, rollout_id, names), names)
        prompt_ids = np.frombuffer(row["prompt_ids"], "<u4")
        ids = np.unique(np.concatenate([prompt_ids, arrays["completion_ids"].astype("<u4")]))
        texts = read_texts(connection, fingerprint(row), [int(i) for i in ids])
    return TokenView(
        n=len(arrays["completion_ids"]),
        prompt_ids=packing.smallest_unsigned(prompt_ids),
        columns={name: arrays[name] for name in names if name in arrays},
        texts={int(i): text_entry(texts.get(int(i))) for i in ids},
        own_texts=row["texts"],
    )


def read_topk(
    engine: Engine, rollout_id: str, position: int, positions: int, count: int | None = None
) -> list[dict[str, Any]]:
    """Both models' alternatives at up to `positions` completion tokens, likeliest first.

    Each: {"position", "token": {…}, "student": [{id, text, special, student_logprob,
    teacher_logprob}] or None, "teacher": […] or None, "student_tail", "teacher_tail"}; a tail is
    the probability outside the alternatives listed here. Raises DamagedRecord.
    """
    names = ("completion_ids", "student_logprobs", "teacher_logprobs", *packing.TOPK_COLUMNS)
    with read(engine) as connection:
        row = rollout_row(connection, rollout_id)
        arrays = packing.unpack(rollout_id, record_row(connection, rollout_id, names), names)
        length = len(arrays["completion_ids"])
        if not 0 <= position < length:
            raise UserError(f"must be 0 to {length - 1} (got {position})", where="position")
        end = min(position + positions, length)
        listed = [a[position:end] for n, a in arrays.items() if n.endswith("_ids")]
        ids = np.unique(np.concatenate([a.ravel().astype("<u4") for a in listed]))
        texts = read_texts(connection, fingerprint(row), [int(i) for i in ids])
    return [
        _choices(at, {name: array[at] for name, array in arrays.items()}, texts, count)
        for at in range(position, end)
    ]


def _alternative(token_id: int, texts: Texts) -> dict[str, Any]:
    special = token_id in texts and texts[token_id][1]
    return {"id": token_id, "text": text_of(token_id, texts), "special": special}


def _choices(
    position: int, at: Mapping[str, Any], texts: Texts, count: int | None
) -> dict[str, Any]:
    chosen = {f"{side}_logprob": finite(at.get(f"{side}_logprobs")) for side in _SIDES}
    choices: dict[str, Any] = {
        "position": position,
        "token": {**_alternative(int(at["completion_ids"]), texts), **chosen},
    }
    for side, other in (_SIDES, _SIDES[::-1]):
        choices[side], choices[f"{side}_tail"] = _alternatives(at, (side, other), texts, count)
    return choices


def _alternatives(
    at: Mapping[str, Any], sides: tuple[str, str], texts: Texts, count: int | None
) -> tuple[list[dict[str, Any]] | None, float | None]:
    """One model's alternatives at a token, and the probability outside those listed."""
    side, other = sides
    if f"{side}_topk_ids" not in at:
        return None, None
    ids, logprobs, tail = (at[f"{side}_topk_{part}"] for part in ("ids", "logprobs", "tail"))
    others = at.get(f"{side}_topk_other", np.full(len(ids), np.nan))  # the other model's opinion
    listed = len(ids) if count is None else max(0, min(count, len(ids)))
    items = [
        {
            **_alternative(int(ids[rank]), texts),
            f"{side}_logprob": finite(logprobs[rank]),
            f"{other}_logprob": finite(others[rank]),
        }
        for rank in range(listed)
    ]
    return items, finite(tail + np.exp(logprobs[listed:], dtype=np.float64).sum())
