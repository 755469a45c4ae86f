"""Tables of Markdown, for pages that are written from result files."""

from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def table(heads: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a table; all columns but the first hold numbers."""
    rule = ["---" if i == 0 else "---:" for i in range(len(heads))]
    return [f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows)]
