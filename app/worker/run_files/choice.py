"""Where the files of a data directory's runs are: in it, or at its address."""

from functools import lru_cache

from app.worker.run_files.local import LocalFiles
from app.worker.run_files.seam import RunFiles
from opd.files import written_aside
from storage.data_dir import DataDir


@lru_cache(maxsize=64)
def run_files(data_dir: DataDir) -> RunFiles:
    """Raises UserError for what is not an address."""
    if data_dir.files is None:
        return LocalFiles(data_dir)
    from app.worker.run_files.address import FilesAddress  # noqa: PLC0415 - where it is used only
    from app.worker.run_files.remote import RemoteFiles  # noqa: PLC0415

    return RemoteFiles(data_dir, FilesAddress(data_dir.files))


def note_files(data_dir: DataDir) -> None:
    """Tells the address, or that there is none, to jobs that a cluster starts in the directory."""
    if data_dir.files is None:
        data_dir.files_note.unlink(missing_ok=True)
        return
    with written_aside(data_dir.files_note) as path:
        path.write_text(f"{data_dir.files}\n", encoding="utf-8")
