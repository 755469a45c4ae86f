"""Where student and teacher disagree over a run: figures of a selection's tokens that count.

`kl` stands for the selection's heat: reverse KL, or |log-ratio| in records that have none. Every
figure names the cell of tokens it is of, such that TokenFilter finds exactly these.
"""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opd.grading.outcome import is_right
from storage.insights.selection import Selection
from storage.insights.token_classes import CLASSES, codes_of
from storage.read.rollouts import CUT
from storage.vocabulary import text_of

MAX_STEP_BINS = 40
MAX_POSITION_BINS = 32
LINEAR_UP_TO = 256  # positions; beyond it bins widen with the position
TOP_STRINGS = 20
TOP_ROLLOUTS = 10
GRID = 24  # bins a side of the entropy–KL grid
HISTOGRAM = 41
TOP_SHARE = 0.01
GRADES = {True: "right", False: "wrong", None: "ungraded"}
Array = NDArray[Any]


def by_position(chosen: Selection) -> dict[str, Any]:
    """Mean KL by position and step.

    "steps" and "positions" are bins [first, last], inclusive; "tokens" and "kl" are lists of
    position bins of lists of step bins, "kl" None where there is no token.
    """
    counts, position = chosen.counts, chosen.position
    step_bins = _step_bins(chosen.steps)
    longest = int(position[counts].max()) + 1 if counts.any() else 0
    edges = _position_edges(longest)
    shape = (max(0, len(edges) - 1), len(step_bins))
    if not longest:
        return {"steps": [], "positions": [], "tokens": [], "kl": []}
    first = np.array([low for low, _ in step_bins])
    column = np.searchsorted(first, chosen.steps, side="right") - 1
    row = np.searchsorted(edges, position[counts], side="right") - 1
    cell = row * shape[1] + np.repeat(column, chosen.lengths)[counts]
    tokens, total = _sums(cell, chosen.heat[counts], shape[0] * shape[1])
    return {
        "steps": step_bins,
        "positions": [[int(a), int(b) - 1] for a, b in pairwise(edges)],
        "tokens": tokens.reshape(shape).tolist(),
        "kl": _means(total, tokens).reshape(shape).tolist(),
    }


def by_token(chosen: Selection) -> dict[str, Any]:
    """The KL by token class and, of the TOP_STRINGS that have most of it, by token.

    Each: tokens, kl_mean, kl_share (of the KL of all tokens), token_share; classes in the order
    of CLASSES, tokens by their share.
    """
    ids = chosen.distinct
    token_index = chosen.by_id(np.arange(len(ids)))[chosen.counts]
    tokens, total = _sums(token_index, chosen.heat[chosen.counts], len(ids))
    codes = codes_of(ids, chosen.texts)
    class_tokens, class_total = (
        np.bincount(codes, values, len(CLASSES)) if len(ids) else np.zeros(len(CLASSES))
        for values in (tokens, total)
    )
    whole = (int(tokens.sum()), float(total.sum()))
    worst = [i for i in np.argsort(-total, kind="stable")[:TOP_STRINGS] if total[i] > 0]
    return {
        "classes": [
            {"class": name, **_shares(class_tokens[i], class_total[i], whole)}
            for i, name in enumerate(CLASSES)
        ],
        "strings": [
            {
                "token_id": int(ids[i]),
                "text": text_of(int(ids[i]), chosen.texts),
                "class": CLASSES[codes[i]],
                **_shares(tokens[i], total[i], whole),
            }
            for i in worst
        ],
        "distinct": int((tokens > 0).sum()),
    }


def quadrants(chosen: Selection, entropy: float, heat: float) -> dict[str, Any]:
    """The tokens by the student's entropy and the KL.

    "quadrants": four with their bounds, half open; "grid": number of tokens by bins of entropy
    (outer) and KL (inner) whose edges are "entropy_edges" and "heat_edges"; the last ones None:
    without end. Tokens of records without entropy are left out and counted in "without".
    """
    values = chosen.columns["student_entropy"]
    measured = chosen.counts & np.isfinite(values)
    x, y = values[measured].astype(np.float64), chosen.heat[measured].astype(np.float64)
    whole = (len(x), float(y.sum()))
    cells = []
    for unsure in (False, True):
        for disagree in (False, True):
            inside = ((x >= entropy) == unsure) & ((y >= heat) == disagree)
            cells.append(
                {
                    "unsure": unsure,
                    "disagree": disagree,
                    "min_entropy": entropy if unsure else None,
                    "max_entropy": None if unsure else entropy,
                    "min_heat": heat if disagree else None,
                    "max_heat": None if disagree else heat,
                    **_shares(inside.sum(), y[inside].sum(), whole),
                }
            )
    x_edges, y_edges = _grid_edges(x, entropy), _grid_edges(y, heat)
    cell = _bin(x, x_edges) * GRID + _bin(y, y_edges)
    tokens, total = _sums(cell, y, GRID * GRID)
    return {
        "thresholds": {"entropy": entropy, "heat": heat},
        "quadrants": cells,
        "entropy_edges": [*x_edges.tolist(), None],
        "heat_edges": [*y_edges.tolist(), None],
        "grid": tokens.reshape(GRID, GRID).tolist(),
        "kl": total.reshape(GRID, GRID).tolist(),
        "without": int((chosen.counts & ~measured).sum()),
    }


def advantages(chosen: Selection) -> dict[str, Any]:
    """How the advantages are spread, and what the largest hundredth of the tokens holds.

    "edges" (n + 1, the outer ones None: without end) and "counts" (n); bins are half open.
    "advantage_quantity" says what they are; "top" the share of the TOP_SHARE of the tokens with
    the largest |advantage| in Σ|advantage|, and of those with the highest KL in ΣKL.
    """
    measured = chosen.counts & np.isfinite(chosen.advantage)
    values = chosen.advantage[measured].astype(np.float64)
    edges = _histogram_edges(values)
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    return {
        "edges": [None, *edges.tolist(), None],
        "counts": counts.tolist() if len(values) else [],
        "advantage_quantity": chosen.advantage_quantity(),
        "measured": len(values),
        "mean": float(values.mean()) if len(values) else None,
        "top": {
            "share": TOP_SHARE,
            "advantage": _top_share(np.abs(values)),
            "kl": _top_share(chosen.heat[chosen.counts].astype(np.float64)),
        },
    }


def correctness(chosen: Selection) -> dict[str, Any]:
    """The KL of right, wrong and ungraded rollouts; right ones with the highest mean KL
    ("penalised") and wrong ones with the lowest ("endorsed"), each [{id, …, kl_mean}]."""
    number = len(chosen.rollouts)
    owner = chosen.owner[chosen.counts]
    tokens, total = _sums(owner, chosen.heat[chosen.counts], number)
    mean = _means(total, tokens)
    grade = np.array([GRADES[is_right(row["reward"])] for row in chosen.rollouts], dtype=object)
    whole = (int(tokens.sum()), float(total.sum()))
    groups = []
    for name in GRADES.values():
        inside = grade == name
        shares = _shares(tokens[inside].sum(), total[inside].sum(), whole)
        groups.append({"grade": name, "rollouts": int(inside.sum()), **shares})
    scored = tokens > 0
    right = [i for i in np.argsort(-total / np.maximum(tokens, 1), kind="stable") if scored[i]]
    order = {"penalised": ("right", right), "endorsed": ("wrong", right[::-1])}
    lists = {
        name: [_listed(chosen.rollouts[i], mean[i], tokens[i]) for i in ranking if grade[i] == of][
            :TOP_ROLLOUTS
        ]
        for name, (of, ranking) in order.items()
    }
    return {"groups": groups, **lists}


def _listed(row: dict[str, Any], mean: float, tokens: int) -> dict[str, Any]:
    names = ("id", "step", "kind", "group", "sample", "finish_reason", "reward")
    answer = None if row["answer"] is None else row["answer"][:CUT]
    return {
        **{name: row[name] for name in names},
        "right": is_right(row["reward"]),
        "answer": answer,
        "tokens": int(tokens),
        "kl_mean": float(mean),
    }


def _step_bins(steps: Array) -> list[list[int]]:
    """[first, last] of up to MAX_STEP_BINS bins with as many of the present steps in each."""
    present = np.unique(steps)
    parts = np.array_split(present, min(len(present), MAX_STEP_BINS)) if len(present) else []
    return [[int(part[0]), int(part[-1])] for part in parts]


def _position_edges(longest: int) -> Array:
    """Bounds of the position bins, the last one past the longest completion."""
    if longest <= LINEAR_UP_TO:
        width = max(1, -(-longest // MAX_POSITION_BINS))
        return np.arange(0, longest + width, width)
    grown = np.geomspace(1, longest, MAX_POSITION_BINS)
    return np.unique(np.concatenate([[0], np.ceil(grown).astype(np.int64)]))


def _grid_edges(values: Array, threshold: float) -> Array:
    """GRID lower bounds from 0, one of them the threshold; finer towards 0, the last bin open."""
    top = float(np.quantile(values, 0.999)) if len(values) else 1.0
    top = max(top, 2 * threshold, 1e-6)
    edges = top * (np.arange(GRID) / (GRID - 1)) ** 2
    near = max(1, int(np.argmin(np.abs(edges - threshold))))
    edges[near] = threshold
    edges[0] = min(0.0, float(values.min())) if len(values) else 0.0  # rounding may go below 0
    return np.sort(edges)


def _bin(values: Array, edges: Array) -> Array:
    return np.clip(np.searchsorted(edges, values, side="right") - 1, 0, GRID - 1)


def _histogram_edges(values: Array) -> Array:
    """HISTOGRAM − 1 bounds over the middle 99.8% of the values, one of them 0."""
    if not len(values):
        return np.zeros(0)
    low, high = np.quantile(values, [0.001, 0.999])
    reach = max(abs(float(low)), abs(float(high)), 1e-6)
    above = np.linspace(0, reach, HISTOGRAM // 2 + 1)
    return np.concatenate([-above[:0:-1], above])


def _top_share(sizes: Array) -> float | None:
    """Share of the largest TOP_SHARE of the values, one at least, in their sum."""
    total = float(sizes.sum())
    if not total:
        return None
    count = -(-len(sizes) // round(1 / TOP_SHARE))
    return float(np.partition(sizes, len(sizes) - count)[len(sizes) - count :].sum()) / total


def _sums(cells: Array, values: Array, number: int) -> tuple[Array, Array]:
    """Number of values and their sum in each cell."""
    if not len(cells):
        return np.zeros(number, np.int64), np.zeros(number)
    return np.bincount(cells, minlength=number), np.bincount(cells, values, number)


def _means(total: Array, tokens: Array) -> Array:
    """Means as objects, None where there is no token."""
    mean = (total / np.maximum(tokens, 1)).astype(object)
    mean[tokens == 0] = None
    return np.asarray(mean)


def _shares(tokens: Any, total: Any, whole: tuple[int, float]) -> dict[str, Any]:
    count, kl = int(tokens), float(total)
    return {
        "tokens": count,
        "kl_mean": kl / count if count else None,
        "kl_share": kl / whole[1] if whole[1] else None,
        "token_share": count / whole[0] if whole[0] else None,
    }
