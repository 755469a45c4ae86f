"""Who may import whom, parsed from the source; and that the server never loads torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("app", "opd", "storage")
MODEL_LIBRARIES = ("torch", "transformers", "peft", "datasets", "accelerate", "safetensors")

# A layer (longest prefix counts) → what of ours it may import, and whether models' libraries.
ALLOWED = {
    "app": (
        (
            "app",
            "storage.queries",
            "storage.jobs",
            "storage.experiments",
            "storage.questions",
            "opd.config",
            "opd.experiments",
            "opd.recipes",
        ),
        False,
    ),
    # opd.lab: what stored numbers say of other objectives, arrays in and out
    "storage": (
        (
            *("storage", "opd.types", "opd.config", "opd.lab"),
            *("opd.experiments", "opd.experiment_plan"),
        ),
        False,
    ),
    "opd": (("opd",), True),
    "opd.worker": (("opd", "storage"), True),
    "opd.worker.supervisor": (("opd", "storage"), False),
    "opd.cli": (("app", "opd", "storage"), True),
}
NOT_BELOW = {"opd": ("opd.worker", "opd.cli"), "opd.worker": ("opd.cli",)}
FREE_OF_MODELS = (
    *("opd.types", "opd.config", "opd.folders", "opd.recipes", "opd.interchange", "opd.memory"),
    *("opd.shapes", "opd.doctor.findings", "opd.doctor.settings", "opd.doctor.machine"),
    *("opd.bounds", "opd.credit", "opd.lab", "opd.experiments", "opd.experiment_plan"),
)


def modules():
    for package in OURS:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield name.removesuffix(".__init__"), path


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def inside(name, layer):
    return name == layer or name.startswith(layer + ".")


def layer_of(module):
    return max((layer for layer in ALLOWED if inside(module, layer)), key=len)


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=[m for m, _ in modules()])
def test_imports_follow_the_table(module, path):
    layer = layer_of(module)
    allowed, models = ALLOWED[layer]
    for name in imports(path):
        if name.split(".")[0] in OURS:
            assert any(inside(name, a) for a in allowed), f"{module} imports {name}"
            assert not any(inside(name, a) for a in NOT_BELOW.get(layer, ())), name
        if name.split(".")[0] in MODEL_LIBRARIES:
            assert models, f"{module} imports {name}"
            assert module not in FREE_OF_MODELS, f"{module} imports {name}"


def test_the_table_is_about_something():
    assert sum(1 for _ in modules()) > 50
    assert {layer_of(m) for m, _ in modules()} == set(ALLOWED)


@pytest.mark.parametrize("module", ["app.server", "opd.cli.serving", "opd.worker.supervisor"])
def test_importing_the_server_leaves_torch_unloaded(module):
    code = (
        f"import sys, {module}, app.pages.shell; "
        "sys.exit(', '.join({'torch', 'transformers'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
