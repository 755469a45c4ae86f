"""Stored rollouts under another objective, mask, clip or prefix; see opd.loss.counterfactual."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, Engine, func, select

from opd.config.run import parse
from opd.config.sections import ObjectiveConfig
from opd.errors import UserError
from opd.loss.counterfactual import (
    UNKNOWN,
    LabSettings,
    as_trained,
    kl_share,
    losses,
    reason_against,
    reduced,
    thinking,
    trained_loss_unknown,
    weights,
)
from opd.loss.objective import StoredLosses, StoredTokens
from opd.loss.objective_table import LAB_PARAMETERS, OBJECTIVES
from storage import packing
from storage.engine import read
from storage.lookups import fingerprint, rollout_row, run_fingerprint, run_row
from storage.read.rollouts import record_row
from storage.read.run_tokens import fair_share, run_tokens
from storage.schema import rollout, step
from storage.vocabulary import Texts, read_texts

RUN_TOKENS = 400_000  # of a whole-run answer; of more, every n-th step is read
STEP_TOKENS = 100_000  # of one step; of more, a fair share of its rollouts
KINDS = ("train", "import")
_OF_TEXT = {"no_special": "special", "thinking": "thinking", "answer": "thinking"}
Array = NDArray[Any]


def lab_rollout(engine: Engine, rollout_id: str, settings: LabSettings) -> dict[str, Any]:
    """Each token's loss and the rollout's, as asked for and as trained.

    `low` and `high` (None where `exact`) are (T,) in nats, before weights; null in `high` means
    that the record allows no upper bound. Raises DamagedRecord, "not found", UserError.
    """
    tokens, row = _read(engine, rollout_id, settings)
    trained_with = _objective(row["run_config"])
    config = settings.over(trained_with or UNKNOWN)
    computed = losses(tokens, config)
    weight = weights(tokens, settings)
    exact = bool(computed.value.exact.all())
    return {
        "rollout_id": rollout_id,
        "n": len(tokens),
        "temperature": row["temperature"],
        "objective": _shown(config),
        "exact": exact,
        "top_k": _stored_k(tokens),
        "low": _floats(computed.value.low),
        "high": None if exact else _floats(computed.value.high),
        "weights": _floats(weight),
        "clipped": np.flatnonzero(computed.clipped).tolist(),
        "maybe_clipped": np.flatnonzero(computed.maybe_clipped).tolist(),
        **_sums(tokens, computed, weight, config.reduction),
        "trained": _trained(tokens, trained_with),
        "unavailable": _unavailable(tokens),
        "notes": _notes(trained_with, tokens),
    }


def lab_token(
    engine: Engine, rollout_id: str, position: int, settings: LabSettings
) -> dict[str, Any]:
    """One token under every objective, with the same settings. Raises as `lab_rollout`."""
    tokens, row = _read(engine, rollout_id, settings)
    if not 0 <= position < len(tokens):
        raise UserError(f"must be 0 to {len(tokens) - 1} (got {position})", where="position")
    trained_with = _objective(row["run_config"]) or UNKNOWN
    settings = settings.of_any_objective()
    at = slice(position, position + 1)
    items = []
    for name, entry in OBJECTIVES.items():
        item: dict[str, Any] = {"objective": name, "low": None, "high": None, "exact": None}
        item["reason"] = reason_against(name, tokens.columns)
        if not item["reason"]:
            config = settings.model_copy(update={"objective": name}).over(trained_with)
            few = tokens if entry.looks_ahead(config) else _only(tokens, at)
            computed = losses(few, config)
            index = position if few is tokens else 0
            item["low"] = float(computed.value.low[index])
            item["high"] = float(computed.value.high[index])
            item["exact"] = bool(computed.value.exact[index])
            item["clipped"] = bool(computed.clipped[index])
        items.append(item)
    return {"position": position, "items": items, "total": len(items)}


def lab_run(
    engine: Engine,
    run_id: str,
    settings: LabSettings,
    *,
    first: int = 0,
    last: int | None = None,
) -> dict[str, Any]:
    """What the loss of each stored step would have been, over its stored training rollouts.

    {"items": [{step, rollouts, tokens, kept, clipped_kept, kl_share, loss, trained, logged}], …}; a
    loss is {"low", "high"}, or None where nothing counts; `logged` is the trainer's own, over all
    of the step's rollouts. `every` is n where only every n-th stored step was read. Raises "not
    found", UserError.
    """
    with read(engine) as connection:
        run = run_row(connection, run_id)
        where = [rollout.c.run_id == run_id, rollout.c.kind.in_(KINDS), rollout.c.step >= first]
        if last is not None:
            where.append(rollout.c.step <= last)
        steps, every = _steps(connection, where)
        trained_with = _objective(run["config"])
        config = settings.over(trained_with or UNKNOWN)
        logged = _logged(connection, run_id)
        name = run_fingerprint(run)
        items, damaged = [], 0
        for number in steps:
            tokens, broken = _step(connection, (*where, rollout.c.step == number), name, settings)
            damaged += broken
            if len(tokens):
                item = _step_item(tokens, settings, config, trained_with)
                items.append({"step": number, "logged": logged.get(number), **item})
    return {
        "items": items,
        "total": len(items),
        "every": every,
        "damaged": damaged,
        "objective": _shown(config),
        "trained_objective": trained_with and _shown(trained_with),
        "exact": all(item["loss"]["low"] == item["loss"]["high"] for item in items if item["loss"]),
    }


def _step_item(
    tokens: StoredTokens,
    settings: LabSettings,
    config: ObjectiveConfig,
    trained_with: ObjectiveConfig | None,
) -> dict[str, Any]:
    weight = weights(tokens, settings)
    trained = _trained(tokens, trained_with)
    return {
        "rollouts": len(tokens.lengths),
        **_sums(tokens, losses(tokens, config), weight, config.reduction),
        "trained": trained and trained["loss"],
    }


def _sums(
    tokens: StoredTokens, computed: StoredLosses, weight: Array, reduction: str
) -> dict[str, Any]:
    loss = reduced(computed.value, weight, tokens.owner, reduction)
    counts = weight > 0
    return {
        "loss": loss and {"low": loss[0], "high": loss[1]},
        "tokens": len(tokens),
        "kept": int(counts.sum()),
        "clipped_kept": int((computed.clipped & counts).sum()),
        "maybe_clipped_kept": int((computed.maybe_clipped & counts).sum()),
        "kl_share": kl_share(tokens, weight),
    }


def _trained(tokens: StoredTokens, trained_with: ObjectiveConfig | None) -> dict[str, Any] | None:
    """The loss as trained, over these tokens; None for an import, or where nothing is known."""
    if trained_with is None or trained_loss_unknown(trained_with, tokens.columns):
        return None
    weight = tokens.stored_mask()
    sums = _sums(tokens, as_trained(tokens, trained_with), weight, trained_with.reduction)
    return {"objective": _shown(trained_with), **sums}


def _objective(config: Mapping[str, Any]) -> ObjectiveConfig | None:
    """The run's objective; None for an import or a configuration of another version."""
    try:
        return parse(config).objective if config.get("objective") else None
    except UserError:
        return None


def _shown(config: ObjectiveConfig) -> dict[str, Any]:
    return {
        "name": config.name,
        **{name: getattr(config, p.name) for name, p in LAB_PARAMETERS.items()},
        "reduction": config.reduction,
        "clip": config.weighting.kl_clip,
    }


def _notes(trained_with: ObjectiveConfig | None, tokens: StoredTokens) -> list[str]:
    notes = []
    if trained_with is None:
        notes.append("These tokens were not trained on here, so there is no loss as trained.")
    elif trained_with.reward_weight:
        notes.append("Only the loss as trained includes the reward term.")
    if trained_with is not None and trained_with.reference_kl:
        notes.append(
            "The KL to the reference is not stored: the loss as trained was at least this."
        )
    if not tokens.stored_mask().all():
        notes.append("Some tokens were masked out in training (the stored mask).")
    return notes


def _unavailable(tokens: StoredTokens) -> dict[str, str]:
    reasons = {name: reason_against(name, tokens.columns) for name in OBJECTIVES}
    return {name: reason for name, reason in reasons.items() if reason}


def _stored_k(tokens: StoredTokens) -> int:
    ids = tokens.columns.get("student_topk_ids", tokens.columns.get("teacher_topk_ids"))
    return 0 if ids is None else int(ids.shape[1])


def _floats(values: Array) -> Array:
    return np.asarray(values, np.float32)


def _only(tokens: StoredTokens, at: slice) -> StoredTokens:
    return StoredTokens({name: array[at] for name, array in tokens.columns.items()}, [1])


def _read(engine: Engine, rollout_id: str, settings: LabSettings) -> tuple[StoredTokens, Any]:
    with read(engine) as connection:
        row = rollout_row(connection, rollout_id)
        columns = packing.unpack(rollout_id, record_row(connection, rollout_id))
        lengths = [len(columns["completion_ids"])]
        stored_texts = (row["texts"] or {}).get("completion")
        columns |= _text_columns(
            settings,
            columns["completion_ids"],
            lengths,
            stored_texts,
            _texts(connection, fingerprint(row)),
        )
    return StoredTokens(columns, lengths), row


def _texts(connection: Connection, name: str) -> Callable[[list[int]], Texts]:
    return lambda ids: read_texts(connection, name, ids)


def _text_columns(
    settings: LabSettings,
    ids: Array,
    lengths: Sequence[int],
    stored_texts: Sequence[str] | None,
    texts_of: Callable[[list[int]], Texts],
) -> dict[str, Array]:
    """`special` or `thinking` of every token, where the mask asks for it."""
    column = _OF_TEXT.get(settings.mask)
    if column is None:
        return {}
    unique, token_index = np.unique(ids, return_inverse=True)
    texts = texts_of([int(i) for i in unique])
    stored = [texts.get(int(i), (b"", False)) for i in unique]
    if column == "special":
        return {"special": np.array([special for _, special in stored], bool)[token_index]}
    words = [data.decode("utf-8", "replace") for data, _ in stored]
    pieces = stored_texts or [words[index] for index in token_index]
    ends = np.cumsum(lengths)
    parts = [thinking(pieces[end - n : end]) for n, end in zip(lengths, ends.tolist(), strict=True)]
    return {"thinking": np.concatenate(parts or [np.zeros(0, bool)])}


def _steps(connection: Connection, where: Sequence[ColumnElement[bool]]) -> tuple[list[int], int]:
    """The stored steps to read, so that no more than RUN_TOKENS are, and every which that is."""
    rows = connection.execute(
        select(rollout.c.step, func.sum(rollout.c.tokens))
        .where(*where)
        .group_by(rollout.c.step)
        .order_by(rollout.c.step)
    ).all()
    every = 1
    while sum(int(n) for _, n in rows[::every]) > RUN_TOKENS and every < len(rows):
        every += 1
    return [number for number, _ in rows[::every]], every


def _logged(connection: Connection, run_id: str) -> dict[int, Any]:
    rows = connection.execute(select(step.c.step, step.c.metrics).where(step.c.run_id == run_id))
    return {number: metrics.get("loss") for number, metrics in rows}


def _step(
    connection: Connection,
    where: Sequence[ColumnElement[bool]],
    name: str,
    settings: LabSettings,
) -> tuple[StoredTokens, int]:
    share = fair_share(connection, where, STEP_TOKENS)
    records = run_tokens(connection, packing.COLUMNS, share.ids)
    columns = dict(records.columns)
    if not records.rollouts:
        return StoredTokens({"completion_ids": np.zeros(0, np.int64)}, []), records.damaged
    lengths = records.lengths.tolist()
    columns |= _text_columns(
        settings, columns["completion_ids"], lengths, None, _texts(connection, name)
    )
    return StoredTokens(columns, lengths), records.damaged
