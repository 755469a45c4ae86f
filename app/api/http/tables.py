"""Tables for spreadsheets: lines of comma-separated values that run no formula."""

import csv
import io
from collections.abc import Iterable
from typing import Any

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def csv_line(values: Iterable[Any]) -> str:
    """One line, with its end."""
    line = io.StringIO()
    csv.writer(line).writerow([_cell(value) for value in values])
    return line.getvalue()


def _cell(value: Any) -> str:
    """A cell as text; one that a spreadsheet would run as a formula gets a quote before it."""
    if value is None:
        return ""
    if isinstance(value, (int, float)):
        return str(value)
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return f"'{text}" if text.lstrip(" \n").startswith(FORMULA_STARTS) else text
