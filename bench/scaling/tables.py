"""The tables of docs/scaling.md."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.scaling import plan
from bench.scaling.cases import CASES, MeasuredStep, SmallCase
from bench.scaling.fit import BOTH, FittedRates, compared, fitted, simulated_seconds
from bench.support.markdown import DOCS

MEASURED = DOCS / "results" / "scaling" / "measured.json"
Rows = Sequence[Sequence[str]]


def read_measured(path: Path = MEASURED) -> dict[str, list[MeasuredStep]]:
    cases = json.loads(path.read_text(encoding="utf-8"))
    return {name: [MeasuredStep(**step) for step in steps] for name, steps in cases.items()}


def rates() -> str:
    fitted_rates = fitted(read_measured())
    r = fitted_rates.rates
    return _table(
        ("rate", "fitted"),
        [
            ("`decode_flops`", f"{r.decode_flops / 1e9:.1f} GFLOP/s"),
            ("`token`", f"{r.token * 1e3:.2f} ms"),
            ("`read_flops`", f"{r.read_flops / 1e9:.1f} GFLOP/s"),
            ("`train_flops`", f"{r.train_flops / 1e9:.1f} GFLOP/s"),
            ("`run`", f"{r.run * 1e3:.1f} ms a pass"),
            ("`update`", f"{r.update * 1e3:.1f} ms"),
            ("storing", f"{1 / fitted_rates.store:,.0f} tokens/s"),
            ("rest of a step", f"{fitted_rates.rest * 1e3:.0f} ms"),
            ("weights to the sampler's process", f"{fitted_rates.send * 1e3:.1f} ms"),
            ("two processes at once", f"{fitted_rates.beside:.2f} times as long"),
        ],
    )


def predictions() -> str:
    measured = read_measured()
    fitted_rates = fitted(measured)
    rows = [_prediction(case, measured, fitted_rates) for case in CASES]
    head = ("step", "sampling", "teacher", "student", "whole", "error", "simulated", "error")
    return _table(head, rows)


def _prediction(
    case: SmallCase, measured: dict[str, list[MeasuredStep]], fitted_rates: FittedRates
) -> Sequence[str]:
    predicted, seen = compared(case, measured[case.name], fitted_rates)
    simulated = simulated_seconds(case, measured, fitted_rates)
    fits = " (fit)" if case.fits or case.name == BOTH else ""

    def both(name: str) -> str:
        return f"{predicted[name]:.3f} / {seen[name]:.3f}"

    return (
        case.name + fits,
        *(both(name) for name in ("sample", "teacher", "student", "total")),
        _error(predicted["total"], seen["total"]),
        f"{simulated:.3f}",
        _error(simulated, seen["total"]),
    )


def _error(predicted: float, seen: float) -> str:
    return f"{predicted / seen - 1:+.0%}"


def memory() -> str:
    rows = []
    for name, estimate in plan.memory().items():
        phases = [estimate.during(p) / 2**30 for p in ("sampling", "reading", "update")]
        parts = sorted(estimate.parts, key=lambda p: -p.bytes)
        largest = [p for p in parts if p.where == "device"][:4]
        named = ", ".join(f"{p.name} {p.bytes / 2**30:.0f}" for p in largest)
        figures = [f"{value:.0f}" for value in (*phases, estimate.host / 2**30)]
        rows.append((name, *figures, "yes" if estimate.device < 80e9 else "no", named))
    head = ("", "sampling", "reading", "update", "host", "fits 80 GB", "largest parts on a GPU")
    return _table(head, rows)


def layouts() -> str:
    rows = []
    for arm in plan.arms():
        cost = arm.cost
        idle = ", ".join(f"{kind} {share:.0%}" for kind, share in arm.idle.items())
        seconds = (cost.sample, cost.teacher, cost.student, cost.total, arm.seconds)
        rows.append(
            (
                arm.arm.name,
                *(f"{value:.0f}" for value in seconds),
                f"{arm.rate:,.0f}",
                idle,
                arm.arm.today,
            )
        )
    head = (
        *("layout of 8 GPUs", "sampling", "teacher", "student", "step", "simulated"),
        *("tokens/s", "idle", "possible today"),
    )
    return _table(head, rows)


def more_devices() -> str:
    sizes = plan.more_devices((8, 16, 32, 64))
    (least, once, grown), *_ = sizes
    rows = []
    for n, same, more in sizes:
        shares = (once * least / same / n, grown / more)
        rows.append((str(n), f"{same:.0f}", f"{shares[0]:.0%}", f"{more:.0f}", f"{shares[1]:.0%}"))
    head = ("GPUs", "512 rollouts, s", "efficiency", "64 rollouts per GPU, s", "efficiency")
    return _table(head, rows)


TABLES: dict[str, Callable[[], str]] = {
    "rates": rates,
    "predictions": predictions,
    "memory": memory,
    "layouts": layouts,
    "more devices": more_devices,
}


def _table(head: Sequence[str], rows: Rows) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
