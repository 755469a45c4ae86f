"""The student's scores on tasks of lm-eval, an optional extra: its prompts, its metrics."""

import logging
import math
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from opd.errors import ErrorKind, UserError, one_line
from opd.models.load import Pair
from opd.types import Score

BATCH = 16
RESAMPLES = 1000  # for the standard error of metrics that have no formula
FIELD = "evaluation.lm_eval"


def lm_eval_scores(
    pair: Pair,
    tasks: Sequence[str | dict[str, Any]],
    *,
    limit: int | None,
    say: Callable[[str], None] = lambda _: None,
) -> list[Score]:
    """One score a task and metric, in suites named `lm-eval/TASK`.

    Tasks are lm-eval's names (or its own form of a task, as a dict). Raises UserError without the
    extra, for an unknown task, and where a task's data cannot be had.
    """
    if find_spec("lm_eval") is None:
        raise UserError(
            "needs lm-eval: pip install 'opd-studio[lm-eval]'",
            where=FIELD,
            kind=ErrorKind.MISSING_EXTRA,
        )
    from lm_eval import simple_evaluate  # noqa: PLC0415 - an optional extra
    from lm_eval.models.huggingface import HFLM  # noqa: PLC0415 - an optional extra
    from lm_eval.tasks import TaskManager  # noqa: PLC0415 - an optional extra

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = TaskManager()
    unknown = [t for t in tasks if isinstance(t, str) and t not in manager.all_tasks]
    if unknown:
        raise UserError(
            f"lm-eval has no task {unknown[0]!r}; `lm-eval ls tasks` lists them", where=FIELD
        )
    say(f"lm-eval: {', '.join(t if isinstance(t, str) else t['task'] for t in tasks)}")
    model = HFLM(pretrained=pair.student, tokenizer=pair.tokenizer, batch_size=BATCH)
    try:
        with pair.computing():
            results = simple_evaluate(
                model,
                tasks=list(tasks),
                limit=limit,
                task_manager=manager,
                bootstrap_iters=RESAMPLES,
                log_samples=False,
            )
    except (OSError, ValueError) as error:
        raise UserError(
            f"lm-eval could not run: {one_line(error)}",
            where=FIELD,
            kind=ErrorKind.MISSING_DATA,
        ) from None
    return [
        score for name, figures in results["results"].items() for score in _scores(name, figures)
    ]


def _scores(task: str, figures: dict[str, Any]) -> list[Score]:
    """lm-eval's {"acc,none": value, "acc_stderr,none": …, "sample_len": n} as scores."""
    scores = []
    for key, value in figures.items():
        metric, _, kind = key.partition(",")
        if not kind or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = figures.get(f"{metric}_stderr,{kind}")
        if not isinstance(error, int | float) or not math.isfinite(error):
            error = 0.0
        name = metric if kind == "none" else f"{metric}/{kind}"
        n = int(figures.get("sample_len", 0))
        scores.append(Score(f"lm-eval/{task}", name, float(value), n, float(error)))
    return scores
