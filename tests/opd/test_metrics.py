"""The one table of metrics names what there is, and says it in whole sentences."""

import ast
import inspect

import pytest

from opd.devices import usage
from opd.metrics import METRICS
from opd.training import step_flops
from opd.training.step import metrics as step_metrics


def written(module: object) -> set[str]:
    """Names that a module's functions write as keys of metrics."""
    tree = ast.parse(inspect.getsource(module))  # type: ignore[arg-type]
    inside = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and node.name in ("step_metrics", "memory_metrics", "overlap_metrics", "parts")
    ]
    assert inside
    names: set[str] = set()
    for function in inside:
        for node in ast.walk(function):
            if isinstance(node, ast.Dict):
                names |= {k.value for k in node.keys if isinstance(k, ast.Constant)}
            if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                names |= {node.slice.value} if isinstance(node.slice.value, str) else set()
    return names


@pytest.mark.parametrize("module", [step_metrics, usage, step_flops])
def test_every_metric_that_a_step_writes_is_in_the_table(module: object) -> None:
    names = written(module)
    assert names and names <= set(METRICS)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_has_a_label_and_a_sentence(name: str) -> None:
    entry = METRICS[name]
    assert entry.label and entry.help.endswith(".") and entry.help[0].isupper()
