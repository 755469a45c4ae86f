"""What `opd.load` and `opd.run` do: a run as arrays and tables in the caller's process."""

import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine

from app.cli.output import say
from app.cli.workspace import DATABASE_VARIABLE, Workspace
from opd.config.drafts.short_forms import with_overrides
from opd.config.run import RunConfig, check_inputs, parse
from opd.errors import ErrorKind, UserError
from storage.data_dir import DataDir
from storage.read.export import export_row
from storage.read.rollouts import read_rollout, read_rollouts
from storage.read.runs import read_evaluations, read_run, read_steps
from storage.read.tokens import EXTRA_COLUMNS, MAIN_COLUMNS, TokenView, read_tokens
from storage.text import token_text

if TYPE_CHECKING:
    from pandas import DataFrame

DEFAULT_DATA_DIR = "~/.opd-studio"
PAGE = 1000
DataDirPath = str | os.PathLike[str] | None


@dataclass(frozen=True)
class RecordedRun:
    """A run in a data directory. Every look reads what is stored now, `info` what was at first."""

    id: str
    engine: Engine

    @cached_property
    def info(self) -> dict[str, Any]:
        """Name, status, steps, score, configuration, checkpoints and the rest."""
        return read_run(self.engine, self.id)

    @property
    def metrics(self) -> "DataFrame":
        """A row a step, a column a metric; NaN where a step lacks it."""
        from pandas import DataFrame

        return DataFrame(read_steps(self.engine, self.id)["columns"]).set_index("step")

    @property
    def evaluations(self) -> "DataFrame":
        """A row a score: step, suite, metric, value, n, standard_error."""
        from pandas import DataFrame

        columns = ("step", "suite", "metric", "value", "n", "standard_error")
        return DataFrame(read_evaluations(self.engine, self.id)["items"], columns=columns)

    def rollouts(self, **filters: Any) -> "DataFrame":
        """A row a rollout, worst first by the sum of its KL, with its id as index.

        `filters` are those of the list of rollouts: step, kind, correct, text … and `sort`.
        """
        from pandas import DataFrame

        items: list[dict[str, Any]] = []
        while True:
            page = read_rollouts(self.engine, self.id, limit=PAGE, offset=len(items), **filters)
            items += page["items"]
            if len(items) >= page["total"] or not page["items"]:
                return DataFrame(items).set_index("id") if items else DataFrame()

    def tokens(self, rollout: str) -> "DataFrame":
        """A row a token of the rollout's completion: text, and every stored column."""
        from pandas import DataFrame

        view = self._view(rollout)
        return DataFrame({"text": _texts(view), **view.columns})

    def arrays(self, rollout: str) -> dict[str, NDArray[Any]]:
        """The same columns as arrays of T numbers, and `prompt_ids`."""
        view = self._view(rollout)
        return {**view.columns, "prompt_ids": view.prompt_ids}

    def record(self, rollout: str) -> dict[str, Any]:
        """The rollout as `opd export` writes it, alternatives included."""
        self._check(rollout)
        return export_row(self.engine, rollout)

    def _view(self, rollout: str) -> TokenView:
        self._check(rollout)
        return read_tokens(self.engine, rollout, (*MAIN_COLUMNS, *EXTRA_COLUMNS))

    def _check(self, rollout: str) -> None:
        owner = read_rollout(self.engine, rollout)["run_id"]
        if owner != self.id:
            raise UserError(f"is a rollout of {owner}, not of {self.id}", where=rollout)


def load(run_id: str, data_dir: DataDirPath) -> RecordedRun:
    """The run. Raises UserError where there is no such run or data directory."""
    workspace = _workspace(data_dir)
    if not workspace.database_url and not workspace.data_dir.database.is_file():
        raise UserError(
            "holds no runs: give the data directory as data_dir", where=_shown(data_dir)
        )
    loaded = RecordedRun(run_id, workspace.engine())
    read_run(loaded.engine, run_id)
    return loaded


def run(
    config: dict[str, Any] | str, changes: list[str], name: str | None, data_dir: DataDirPath
) -> RecordedRun:
    """Trains to the end in a process of its own, whose exit gives back the memory. Ctrl-C stops it
    with a checkpoint. Raises UserError, also for a run that did not finish."""
    from app.cli.foreground import run_as_job
    from app.worker.owners.person import command_user
    from app.worker.process import this_process
    from storage.queue import jobs

    settings, recipe = _configuration(config, changes)
    if name is not None:
        settings = parse({**settings.model_dump(mode="json"), "name": name})
    workspace = _workspace(data_dir)
    engine = workspace.engine()
    me = this_process(workspace.data_dir)
    run_id = jobs.create_run(engine, settings, recipe=recipe, waiter=me, started_by=command_user())
    say(f"{run_id} starts; log: {workspace.data_dir.run(run_id).log}")
    try:
        run_as_job(workspace, engine, run_id)
    except KeyboardInterrupt:
        with suppress(UserError):  # it has ended meanwhile
            jobs.request_cancel(engine, run_id, "save", command_user())
        raise
    ended = read_run(engine, run_id)
    if ended["status"] != "finished":
        raise UserError(ended["error_text"] or ended["status"], where=run_id, kind=_kind(ended))
    return RecordedRun(run_id, engine)


def _configuration(config: dict[str, Any] | str, changes: list[str]) -> tuple[RunConfig, str]:
    from app.cli.training import configuration

    if isinstance(config, str):
        return configuration(config, changes)
    if isinstance(config, dict):
        return check_inputs(parse(with_overrides(config, changes))), ""
    kind = type(config).__name__
    raise UserError(f"must be a dict, a recipe or a YAML file (got {kind})", where="config")


def _kind(ended: dict[str, Any]) -> ErrorKind:
    """Of a kind that this version does not know, or none: an error."""
    kinds = {str(kind): kind for kind in ErrorKind}
    return kinds.get(ended["error_kind"], ErrorKind.ERROR)


def _workspace(data_dir: DataDirPath) -> Workspace:
    folder = Path(data_dir if data_dir is not None else _shown(None)).expanduser().absolute()
    database_url = os.environ.get(DATABASE_VARIABLE) if data_dir is None else None
    return Workspace(DataDir.used_with(folder, database_url), database_url)


def _shown(data_dir: DataDirPath) -> str:
    return str(
        data_dir if data_dir is not None else os.environ.get("OPD_DATA_DIR") or DEFAULT_DATA_DIR
    )


def _texts(view: TokenView) -> list[str]:
    """Each token's text by itself; bytes that are no character as \\xNN."""
    stored = (view.own_texts or {}).get("completion")
    if stored is not None:
        return stored
    texts = {i: _text(i, entry) for i, entry in view.texts.items()}
    return [texts[int(i)] for i in np.asarray(view.columns["completion_ids"])]


def _text(token_id: int, entry: dict[str, Any]) -> str:
    if "b" in entry:
        return token_text(bytes.fromhex(entry["b"]))
    return f"⟨{token_id}⟩" if entry["t"] is None else str(entry["t"])
