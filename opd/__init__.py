"""On-policy distillation. Two doors for Python and notebooks: `opd.run` trains, `opd.load` reads.

This module alone reaches up, to the database and the jobs; each door imports what it needs when it
is called, so that `import opd` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from app.notebook import RecordedRun


def load(run: str, *, data_dir: str | PathLike[str] | None = None) -> RecordedRun:
    """A run's metrics and token records, by its id.

    `data_dir` is the data directory; by default $OPD_DATA_DIR, or else ~/.opd-studio. Raises
    UserError where there is no such run or directory.
    """
    _find_ours()
    from app import notebook

    return notebook.load(run, data_dir)


def run(
    config: dict[str, Any] | str,
    *,
    changes: Sequence[str] = (),
    name: str | None = None,
    data_dir: str | PathLike[str] | None = None,
) -> RecordedRun:
    """Trains one run to its end, in a process of its own, and loads it.

    `config` is a configuration as a dict, or the name of a recipe or of a YAML file; `changes` are
    "field=value" as of `opd train --set`. Raises UserError for a configuration that cannot run,
    and for a run that failed or was stopped, with the reason; what it recorded until then can be
    read with `load`.
    """
    _find_ours()
    from app import notebook

    return notebook.run(config, list(changes), name, data_dir)


def _find_ours() -> None:
    """`app` is ours, though the folder that a notebook lies in may hold another.

    Raises ImportError where such a one has been imported before.
    """
    from opd_launcher import find_ours_first

    find_ours_first()
