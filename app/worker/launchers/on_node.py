"""What a cluster's job makes sure of before it claims its run: that this host can run it at all."""

import os
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from app.version import program_version
from app.worker.devices import slots
from app.worker.launchers.database import address_of, data_dir_at, use_written_address
from app.worker.launchers.launcher import JOB_VARIABLE
from app.worker.owners.place import host_name
from opd.config.run import parse
from opd.devices.gpus import gpu_count
from opd.errors import UserError
from storage import clock
from storage.data_dir import DataDir
from storage.engine import open_database
from storage.read.runs import read_run

LEFT_TO_SAVE = 0.8  # of the launcher's grace, for a checkpoint


@dataclass(frozen=True)
class ClusterJob:
    """`given_as`: what a controller wrote down when it submitted the job; `grace`: seconds between
    the launcher's SIGTERM and its SIGKILL."""

    given_as: str
    grace: float

    @property
    def name(self) -> str:
        return os.environ.get(JOB_VARIABLE) or self.given_as.replace(":?", ":", 1)

    @property
    def names(self) -> tuple[str, str]:
        return self.name, self.given_as

    @property
    def patience(self) -> float:
        return self.grace * LEFT_TO_SAVE


def open_shared(path: Path, version: str) -> tuple[DataDir, Engine]:
    """The studio's directory and database, as they are.

    Raises UserError that names this host where they cannot be used from here, or by this version.
    """
    here = f"on {host_name()}"
    if not path.is_dir():
        text = f"the data directory is not {here}: it must be a folder that all hosts share"
        raise UserError(text, where=str(path))
    if version != program_version():
        text = f"{here} is {program_version()}, the server's is {version}: install one on all hosts"
        raise UserError(text, where="opd-studio")
    use_written_address(path)
    data_dir = data_dir_at(path)
    data_dir.make_host_folder()
    engine = open_database(address_of(data_dir), upgrade=False)
    if wrong := clock.wrong(clock.ahead(engine)):
        engine.dispose()
        raise UserError(f"{here} is {wrong}: set it (ntp, chrony)", where="clock")
    return data_dir, engine


def slot_here(engine: Engine, run_id: str) -> str:
    """Of the devices that the cluster lets the job see."""
    config = parse(read_run(engine, run_id)["config"])
    here = config.devices // config.resources.nodes
    slot = slots.choose(config.device, (), gpu_count(), count=here)
    assert slot is not None  # nothing is taken
    return slot
