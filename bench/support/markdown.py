"""Tables and figures in Markdown, for pages that are written from result files."""

from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def table(heads: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a table; all columns but the first hold numbers."""
    rule = ["---" if i == 0 else "---:" for i in range(len(heads))]
    return [f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows)]


def interval(value: float | None, low: float | None, high: float | None) -> str:
    """`0.845 (0.819–0.875)`."""
    return "–" if value is None else f"{value:.3g}" + _between(low, high, ".3g")


def ratio(value: float | None, low: float | None, high: float | None) -> str:
    """`8.1× (6.4–10.0)`: all three with the decimals that the value needs."""
    if value is None:
        return "–"
    decimals = next((n for size, n in ((100, 0), (1, 1), (0.1, 2)) if abs(value) >= size), 3)
    return f"{value:.{decimals}f}×" + _between(low, high, f".{decimals}f")


def _between(low: float | None, high: float | None, form: str) -> str:
    if low is None or high is None:
        return ""
    return f" ({low:{form}}{' to ' if low < 0 else '–'}{high:{form}})"
