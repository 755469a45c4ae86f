"""Starts the programs of OPD Studio: `opd`, and every process that one of them starts.

    python -P /…/opd_launcher.py app.worker.job RUN …

Neither the working directory nor PYTHONPATH can put another `app`, `opd` or `storage` in place of
ours, nor a `random.py` in place of the standard library's. Nothing else changes: what PYTHONPATH
offers besides is found as ever. This module's own name is one that nobody else uses; it imports
only what is a part of the interpreter until the path is in order.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

ROOT = os.path.dirname(os.path.abspath(__file__))
PACKAGES = ("app", "opd", "storage")
LIBRARY = os.path.dirname(os.__file__)  # of Python itself
# Large or common names in the standard library that no program imports.
UNUSED = ("antigravity", "idlelib", "lib2to3", "test", "this", "turtle", "turtledemo")


class OurPackages:
    """Finds our packages where this file lies, whatever the path says."""

    @staticmethod
    def find_spec(
        name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        if name not in PACKAGES:
            return None
        from importlib.util import spec_from_file_location

        folder = os.path.join(ROOT, name)
        start = os.path.join(folder, "__init__.py")
        return spec_from_file_location(name, start, submodule_search_locations=[folder])


def find_ours_first() -> None:
    """Raises ImportError where another module has been imported under the name of one of ours."""
    for name in PACKAGES:
        other = getattr(sys.modules.get(name), "__file__", None)
        if other is not None and os.path.dirname(os.path.abspath(other)) != f"{ROOT}{os.sep}{name}":
            raise ImportError(f"{other} has been imported as `{name}`, a package of OPD Studio")
    if OurPackages not in sys.meta_path:
        sys.meta_path.insert(0, OurPackages)


def find_library_first() -> list[str]:
    """Puts the standard library before all else on the path, and ours before what bears its names.

    The files that would have been imported in its place or ours.
    """
    before = [
        entry
        for entry in sys.path[: _first_of_library()]
        if os.path.realpath(entry) != os.path.realpath(ROOT)
        and not entry.rstrip(os.sep).endswith("-packages")
    ]
    hiding = [path for entry in before for path in _hiding(entry)]
    library = [entry for entry in sys.path if _of_library(entry)]
    sys.path[:] = library + [entry for entry in sys.path if entry not in library]
    for name, module in list(sys.modules.items()):  # imported while Python itself started
        if getattr(module, "__file__", None) in hiding:
            del sys.modules[name]
    find_ours_first()
    return hiding


def _first_of_library() -> int:
    return next((i for i, entry in enumerate(sys.path) if _of_library(entry)), len(sys.path))


def _of_library(entry: str) -> bool:
    zipped = f"python{sys.version_info[0]}{sys.version_info[1]}.zip"
    return entry in (LIBRARY, os.path.join(LIBRARY, "lib-dynload")) or entry.endswith(zipped)


def _hiding(folder: str) -> list[str]:
    """The modules and packages there whose names are ours or the standard library's."""
    try:
        names = sorted(os.listdir(folder or os.curdir))
    except OSError:
        return []
    paths = []
    for name in names:
        stem = name.removesuffix(".py")
        ours = stem in PACKAGES or (stem in sys.stdlib_module_names and stem not in UNUSED)
        path = os.path.join(folder, name)
        if ours and stem == name:
            path = os.path.join(path, "__init__.py")
        if ours and os.path.isfile(path):
            paths.append(path)
    return paths


def command() -> None:
    """`opd`."""
    try:
        if hiding := find_library_first():
            named = ", ".join(hiding)
            _say(f"Warning: ignored, named like modules of Python or OPD Studio: {named}")
        from app.cli.main import app

        app()
    except KeyboardInterrupt:
        _say("Error: stopped")
        sys.exit(130)


def start(module: str, *arguments: str) -> int:
    """Runs a program of ours in this process; its exit code."""
    find_library_first()
    from importlib import import_module

    sys.argv[:] = [module, *arguments]
    return int(import_module(module).main() or 0)


def _say(text: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(start(*sys.argv[1:]))
