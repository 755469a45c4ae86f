"""One table of error kinds: complete, consistent, and the only one."""

import ast
from pathlib import Path

import pytest

from opd.errors import ConfigError, ErrorKind, UserError

ROOT = Path(__file__).parents[2]
# Stored and sent: scripts and older databases know these words.
VALUES = {
    *("bad input", "bad configuration", "bad data", "missing data", "refused data"),
    *("missing model", "refused model", "missing extra", "no teacher", "tokenizer mismatch"),
    *("teacher server", "grader failed", "not found", "running", "not running", "not resumable"),
    *("damaged record", "busy", "cancelled", "not our database", "newer schema", "killed"),
    *("read only", "directory gone", "database gone"),
    *("terminated", "interrupted", "hung", "lost", "out of memory", "disk full", "nan loss"),
    *("damaged checkpoint", "lease lost", "locked", "error", "changed inputs", "device busy"),
    *("device lost", "stale edit", "sampling server", "files"),
}
STATUS = {
    404: {"not found"},
    409: {
        "running",
        "not running",
        "not resumable",
        "damaged record",
        "lease lost",
        "changed inputs",
        "device busy",
        "stale edit",
        "read only",
    },
    429: {"busy"},
    503: {"locked", "directory gone", "database gone", "files"},
    507: {"disk full"},
}


def test_the_values_are_those_that_were_always_stored() -> None:
    assert {kind.value for kind in ErrorKind} == VALUES
    assert ErrorKind("nan loss") is ErrorKind.NAN_LOSS
    assert f"{ErrorKind.NAN_LOSS}" == "nan loss"


@pytest.mark.parametrize("kind", ErrorKind)
def test_a_kind_says_what_to_do_and_whose_fault_it_is(kind: ErrorKind) -> None:
    assert kind.hint.endswith(".")
    assert kind.exit_code == (2 if kind.by_input else 1)
    stated = {value: status for status, values in STATUS.items() for value in values}
    if kind.value in stated:
        assert kind.status == stated[kind.value]
    else:
        assert kind.status in (422, 500)
    if kind.by_input:
        assert 400 <= kind.status < 500


def test_an_error_is_of_a_kind() -> None:
    assert UserError("x").kind is ErrorKind.BAD_INPUT
    assert ConfigError([{"field": "a", "message": "x"}]).kind is ErrorKind.BAD_CONFIGURATION


def _texts() -> list[tuple[str, int, str]]:
    """Every text of the source, docstrings aside, that is the value of a kind."""
    texts = []
    for package in ("app", "opd", "storage"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if path == ROOT / "opd/errors.py":
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                for text in _kind_texts(node):
                    texts.append((str(path.relative_to(ROOT)), node.lineno, text))
    return texts


def _kind_texts(node: ast.AST) -> list[str]:
    """Literals given as a kind, and literals of several words, which are nothing else."""
    if isinstance(node, ast.Call):
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        given = [k.value for k in node.keywords if k.arg in ("kind", "error_kind")]
        literals = [v.value for v in given if isinstance(v, ast.Constant)]
        return [str(v) for v in literals if name.endswith("Error") or v in VALUES]
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
        return [node.value] if node.value in VALUES else []
    return []


def test_no_other_module_spells_a_kind() -> None:
    assert _texts() == []
