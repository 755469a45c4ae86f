"""What a step costs with many GPUs: the tables of docs/scaling.md, from what was measured here.

    python -m bench.scaling                          writes the tables into docs/scaling.md
    python -m bench.scaling measure [--rounds 3]     measures small steps on this machine first

What was measured lies in docs/results/scaling/measured.json.
"""

import argparse
import json

from bench.scaling.cases import CASES, measure_all
from bench.scaling.tables import MEASURED, TABLES
from bench.support.markdown import DOCS

DOCUMENT = DOCS / "scaling.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=["tables", "measure"], default="tables")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.what == "measure":
        measured = json.dumps(measure_all(CASES, options.rounds), ensure_ascii=False)
        MEASURED.write_text(measured + "\n", encoding="utf-8")
    text = DOCUMENT.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        text = replaced(text, name, table())
    DOCUMENT.write_text(text, encoding="utf-8")


def replaced(text: str, name: str, table: str) -> str:
    """The document with one table written anew, between its pair of comments."""
    start, end = f"<!-- {name}, written by bench.scaling -->\n", f"<!-- end of {name} -->"
    before, mark, rest = text.partition(start)
    if not mark:
        raise ValueError(f"docs/scaling.md has no place for the table: {name}")
    return f"{before}{start}{table}\n{end}{rest.partition(end)[2]}"


if __name__ == "__main__":
    main()
