"""Where the files of a data directory's runs are: in it, or at its address."""

from functools import lru_cache

from app.worker.run_files.address import FilesAddress
from app.worker.run_files.local import LocalFiles
from app.worker.run_files.remote import RemoteFiles
from app.worker.run_files.seam import RunFiles
from storage.data_dir import DataDir


@lru_cache(maxsize=64)
def run_files(data_dir: DataDir) -> RunFiles:
    """Raises UserError for what is not an address."""
    if data_dir.files is None:
        return LocalFiles(data_dir)
    return RemoteFiles(data_dir, FilesAddress(data_dir.files))
