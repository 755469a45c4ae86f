"""The data directory: what lies where in it. Names on disk are relied on by scripts and older
versions."""

import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path

FILES_VARIABLE = "OPD_FILES"


def is_shared(database_url: str | None) -> bool:
    """Whether several hosts can use the database; None is the directory's own, a file of SQLite."""
    return database_url is not None and not database_url.startswith("sqlite")


@dataclass(frozen=True)
class RunDir:
    """A run's folder."""

    path: Path

    @property
    def log(self) -> Path:
        """The output of the run's jobs."""
        return self.path / "log.txt"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def references(self) -> Path:
        """Which checkpoint each reference to another run stood for: {reference: step}."""
        return self.path / "references.json"

    @property
    def fetched(self) -> Path:
        """Checkpoints that were read from the address of --files, not saved here."""
        return self.path / "fetched"

    def aside(self, attempt: int) -> Path:
        """The last checkpoint of an attempt whose run was taken over while it still ran."""
        return self.path / "aside" / f"attempt-{attempt}"

    @property
    def system_usage(self) -> Path:
        """What the machine did while the run went on."""
        return self.path / "system.jsonl"

    @property
    def reserve(self) -> Path:
        """Space that is given up to record a full disk."""
        return self.path / ".reserve"


@dataclass(frozen=True)
class DataDir:
    """`host` names this host where others may use the same directory and database; what each host
    has of its own then lies in a folder of that name.

    `files` is the address at which other hosts find what runs leave in files, where that is not
    the directory itself."""

    path: Path
    host: str = ""
    files: str | None = None

    @classmethod
    def used_with(cls, path: Path, database_url: str | None, files: str | None = None) -> "DataDir":
        """That of a process which uses this database: the directory's SQLite file, which is None,
        or one that hosts may share together with the directory.

        Without `files` the address is that of the environment, or of a note in the directory: a
        cluster hands its jobs no environment."""
        host = re.sub(r"[^\w.-]", "-", socket.gethostname()) if is_shared(database_url) else ""
        return cls(path, host, files or os.environ.get(FILES_VARIABLE) or cls(path).noted_files())

    def noted_files(self) -> str | None:
        """The address of --files that a server of this directory was started with."""
        try:
            return self.files_note.read_text(encoding="utf-8").strip() or None
        except OSError:
            return None

    def __str__(self) -> str:
        return str(self.path)

    @property
    def database(self) -> Path:
        """The SQLite file, where no other database is named."""
        return self.path / "studio.db"

    @property
    def database_url(self) -> Path:
        """The address of another database, for jobs of a cluster; of its user alone (0600)."""
        return self.path / "database-url"

    @property
    def token(self) -> Path:
        """The server's access token."""
        return self.path / "token"

    @property
    def files_note(self) -> Path:
        """The address of --files, for jobs that are started on other machines."""
        return self.path / "files-address"

    @property
    def identity(self) -> Path:
        """An empty file that tells this directory from its copies; never written again."""
        return self.path / "identity"

    @property
    def host_folder(self) -> Path:
        """The folder of this host's locks, notes and logs."""
        return self.path / "hosts" / self.host if self.host else self.path

    def make_host_folder(self) -> None:
        """That folder, in a directory that is there. Raises OSError."""
        if self.host:
            self.host_folder.parent.mkdir(exist_ok=True)
            self.host_folder.mkdir(exist_ok=True)

    @property
    def standby_note(self) -> Path:
        """The job process that waits for a run, while there is one."""
        return self.host_folder / "standby.json"

    @property
    def server_note(self) -> Path:
        """Port, process and address of the server, while there is one."""
        return self.host_folder / "server.json"

    @property
    def server_lock(self) -> Path:
        """Held by the server."""
        return self.host_folder / "server.lock"

    @property
    def supervisor_lock(self) -> Path:
        return self.host_folder / "supervisor.lock"

    @property
    def supervisor_note(self) -> Path:
        """Why the server's supervisor does not stay, while it does not."""
        return self.host_folder / "supervisor.json"

    @property
    def supervisor_log(self) -> Path:
        return self.host_folder / "supervisor.log"

    @property
    def model_lock(self) -> Path:
        """Held by the model process."""
        return self.host_folder / "answerer.lock"

    @property
    def model_log(self) -> Path:
        return self.host_folder / "answerer.log"

    @property
    def model_state(self) -> Path:
        """What the model process has in memory."""
        return self.host_folder / "answerer.json"

    @property
    def file_lock(self) -> Path:
        """Held by the process that makes files to download, one for all hosts."""
        return self.path / "files.lock"

    @property
    def file_log(self) -> Path:
        return self.host_folder / "files.log"

    @property
    def downloads(self) -> Path:
        """Files made for pages, each under the id of its request, for a day."""
        return self.path / "downloads"

    @property
    def uploads(self) -> Path:
        """Data files from the page of a new run, each under its name and digest."""
        return self.path / "uploads"

    def device_lock(self, slot: str) -> Path:
        """Held while models of a page or a command are on a GPU; `slot` as in `cuda:0`."""
        return self.host_folder / "devices" / f"{slot.replace(':', '-')}.lock"

    @property
    def runs(self) -> Path:
        return self.path / "runs"

    @property
    def models(self) -> Path:
        """Models that were converted once for all runs."""
        return self.path / "models"

    def run(self, run_id: str) -> RunDir:
        return RunDir(self.runs / run_id)

    def name_of(self, path: Path) -> str:
        """What a file in the directory is called wherever runs' files are kept."""
        return path.relative_to(self.path).as_posix()
