"""The log of a run at a store, where nothing is appended to: a part for each attempt, written whole
each time that it has grown."""

from pathlib import Path

from app.worker.run_files.address import FilesAddress
from opd.files import written_aside
from storage.data_dir import DataDir

NOTE = ".log-"  # and the attempt: from which byte on the log is its


class Parts:
    """What one attempt on this host adds to log and figures of the machine.

    The log of this host may begin with earlier attempts; from which byte on it is this one's is
    kept beside it, for whoever sends what a killed attempt did not.
    """

    def __init__(self, data_dir: DataDir, store: FilesAddress, run_id: str, attempt: int) -> None:
        self._run, self._store = data_dir.run(run_id), store
        self._run_id, self._attempt = run_id, attempt
        self._note = self._run.path / f"{NOTE}{attempt:04d}"
        self._sent: dict[Path, tuple[int, int]] = {}

    def begin(self) -> None:
        """An attempt goes on with what others have written of the machine."""
        size = self._run.log.stat().st_size if self._run.log.is_file() else 0
        start = 0 if self._attempt == 1 else size
        self._run.path.mkdir(parents=True, exist_ok=True)
        usage = self._run.system_usage
        if self._attempt > 1 and (content := self._store.content(self._key(usage))) is not None:
            with written_aside(usage) as aside:
                aside.write_bytes(content)
        with written_aside(self._note) as aside:  # another attempt's rest may be sent meanwhile
            aside.write_text(str(start), encoding="ascii")

    def send(self) -> None:
        """Sends what has changed since. Raises UserError."""
        log, usage = self._run.log, self._run.system_usage
        if (state := self._changed(log)) is not None:
            if text := self._log_part():
                self._store.write(text, f"{_log(self._run_id)}/{self._attempt:04d}")
            self._sent[log] = state
        if (state := self._changed(usage)) is not None:
            self._store.put(usage, self._key(usage))
            self._sent[usage] = state

    def _key(self, path: Path) -> str:
        return f"runs/{self._run_id}/{path.name}"

    def _log_part(self) -> bytes:
        """From where this attempt began to where the next one on this host did."""
        notes = sorted(self._run.path.glob(f"{NOTE}*"))
        starts = [int(note.read_text(encoding="ascii")) for note in notes if note >= self._note]
        if not self._note.is_file():
            return b""
        with self._run.log.open("rb") as file:
            file.seek(starts[0])
            return file.read(starts[1] - starts[0] if starts[1:] else -1)

    def _changed(self, path: Path) -> tuple[int, int] | None:
        """Size and time of a file that is not as it was sent; None where it is, or is not there."""
        try:
            status = path.stat()
        except OSError:
            return None
        now = (status.st_size, status.st_mtime_ns)
        return now if now != self._sent.get(path) else None


class LogOfParts:
    """All attempts' parts as one."""

    def __init__(self, store: FilesAddress, run_id: str) -> None:
        self._store, self._folder = store, _log(run_id)
        self._parts = sorted(store.sizes(self._folder).items())
        self.size = sum(size for _, size in self._parts)

    def read(self, start: int, limit: int) -> bytes:
        pieces, at = [], 0
        for name, size in self._parts:
            first, last = max(start - at, 0), min(start + limit - at, size)
            if first < last:
                pieces.append(self._store.read(f"{self._folder}/{name}", first, last))
            at += size
        return b"".join(pieces)


def _log(run_id: str) -> str:
    return f"runs/{run_id}/log"
