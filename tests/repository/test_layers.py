"""Who may import whom, parsed from the source; and that the server never loads torch."""

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODEL_LIBRARIES = ("torch", "transformers", "peft", "datasets", "accelerate", "safetensors")

# A layer may import itself and those below it. Every import counts, also one inside a function
# or under TYPE_CHECKING.
BELOW = {"opd": (), "storage": ("opd",), "app": ("storage", "opd")}
# The door for Python users, which reaches up by late imports.
DOOR = "opd"

# Folders of a layer import each other in one direction, but for two modules: the loss lab's
# settings are those of an objective, whose configuration is made from the losses beside it; and the
# program that makes the bundled assistant uses what reads the bundled prompts.
ACROSS_FOLDERS = ("opd.loss.counterfactual", "opd.bundled.make_assistant")

# Modules and packages that must not import the models' libraries anywhere in their source …
FREE_OF_MODELS = (
    *("storage", "app"),
    *("opd.types", "opd.errors", "opd.config", "opd.experiments", "opd.interchange"),
    *("opd.grading", "opd.diagnosis"),
    *("opd.loss.counterfactual", "opd.loss.credit", "opd.loss.divergence_bounds"),
    *("opd.models.architecture", "opd.models.folders.summary"),
    "opd.devices.gpus",
    *("opd.doctor.findings", "opd.doctor.machine.fit", "opd.doctor.memory", "opd.doctor.settings"),
    *("opd.training.checkpoint_manifest", "opd.teachers.vllm_client"),
)
# … but for these, which train, score and answer, and commands, which do so late.
WITH_MODELS = ("app.worker", "app.cli")
FREE_ALL_THE_SAME = (
    *("app.worker.supervisor", "app.worker.process", "app.worker.recovery", "app.worker.lease"),
)
# Entry points that must leave torch unloaded, seen in a fresh interpreter.
ENTRIES = (
    *("app.server", "app.pages", "app.cli.commands", "app.cli.serving", "app.worker.supervisor"),
    *("storage.read.runs", "storage.insights.insights", "storage.diagnosis.diagnose"),
    *("opd.config.run", "opd.types"),
)
# Those that ask nobody anything either, and start without the tenth of a second of HTTP clients.
FREE_OF_CLIENTS = ("app.cli.commands", "app.cli.serving", "app.worker.supervisor")


@cache
def modules() -> dict[str, Path]:
    """Dotted name → file of every module of ours, tests and benchmarks included."""
    paths = [p for top in (*BELOW, "bench", "tests") for p in sorted((ROOT / top).rglob("*.py"))]
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths)
    return {name.removesuffix(".__init__"): p for name, p in zip(names, paths, strict=True)}


@cache
def imported(module: str) -> frozenset[str]:
    """Every name that the module imports, as far as it is spelled out: `package.module.name`."""
    names = set()
    for node in ast.walk(ast.parse(modules()[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def module_of(name: str) -> str | None:
    """The module of ours that an imported name lies in."""
    parts = name.split(".")
    prefixes = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in modules()), None)


def inside(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def product() -> list[str]:
    return [name for name in modules() if name.split(".")[0] in BELOW]


def test_imports_point_downwards():
    wrong = [
        f"{module} imports {name}"
        for module in product()
        if module != DOOR
        for name in imported(module)
        if (top := name.split(".")[0]) in (*BELOW, "bench", "tests")
        and top not in (module.split(".")[0], *BELOW[module.split(".")[0]])
    ]
    assert wrong == []


def graph() -> dict[str, set[str]]:
    return {
        module: {other for name in imported(module) if (other := module_of(name))} - {module}
        for module in modules()
        if module != DOOR
    }


def test_no_circle_between_any_two_modules():
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def folder(module: str) -> str:
    """The folder of a layer, or the file beside its folders, that the module belongs to."""
    return ".".join(module.split(".")[:2])


def test_no_circle_between_any_two_folders_of_a_layer():
    folders: dict[str, set[str]] = {}
    for module, others in graph().items():
        if module.split(".")[0] in BELOW and module not in ACROSS_FOLDERS:
            met = {folder(other) for other in others if other not in (DOOR, *ACROSS_FOLDERS)}
            folders.setdefault(folder(module), set()).update(met - {folder(module)})
    assert len(folders) > 40
    try:
        TopologicalSorter(folders).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_what_must_stay_free_of_the_models_libraries():
    wrong = [
        f"{module} imports {name}"
        for module in product()
        if inside(module, FREE_OF_MODELS)
        and (not inside(module, WITH_MODELS) or inside(module, FREE_ALL_THE_SAME))
        for name in imported(module)
        if name.split(".")[0] in MODEL_LIBRARIES
    ]
    assert wrong == []


def test_the_tables_are_about_something():
    assert len(product()) > 150 and len(modules()) > 300
    for name in (
        *FREE_OF_MODELS,
        *WITH_MODELS,
        *FREE_ALL_THE_SAME,
        *ENTRIES,
        *FREE_OF_CLIENTS,
        *ACROSS_FOLDERS,
    ):
        assert name in modules(), name
    assert sum(len(others) for others in graph().values()) > 500


@pytest.mark.parametrize("module", ENTRIES)
def test_importing_it_leaves_torch_unloaded(module):
    late = {"torch", "transformers"} | ({"httpx"} if module in FREE_OF_CLIENTS else set())
    code = f"import sys, {module}; sys.exit(', '.join({late} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


DOTTED = re.compile(r"(?<![\w./-])(?:app|opd|storage|bench|tests)(?:\.[A-Za-z_]\w*)+(?![\w/-])")


def strings(path: Path) -> list[tuple[int, str]]:
    """Every string constant of a module, docstrings too, with its line."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        (node.lineno, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def resolves(name: str) -> bool:
    """Whether a dotted name is a module of ours, or a name defined or imported in one."""
    module = module_of(name)
    if module is None:
        return False
    rest = name.removeprefix(module).lstrip(".")
    return not rest or rest.split(".")[0] in names_of(module)


@cache
def names_of(module: str) -> set[str]:
    """The names defined or imported at the top of a module."""
    names = set()
    for node in ast.parse(modules()[module].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def dotted_names() -> list[tuple[str, str]]:
    """(where, name) of every dotted name of ours that stands in a string or a text file."""
    met = [
        (f"{path.relative_to(ROOT)}:{line}", name)
        for path in modules().values()
        for line, text in strings(path)
        for name in DOTTED.findall(text)
    ]
    texts = (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "bench").glob("*.md"))
    for path in (*texts, ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / ".ci" / "run"):
        for name in DOTTED.findall(path.read_text(encoding="utf-8")):
            met.append((str(path.relative_to(ROOT)), name))
    return met


# Dotted words that are no names of modules: file names, fields of settings and of events.
NOT_MODULES = re.compile(r"(app|opd|storage|bench|tests)\.(py|md|db|sqlite|log|json|yaml|js|css)$")


def test_every_dotted_name_in_a_string_resolves():
    met = [(where, name) for where, name in dotted_names() if not NOT_MODULES.fullmatch(name)]
    assert len(met) > 60
    wrong = [f"{where}: {name}" for where, name in met if not resolves(name)]
    assert wrong == []
