"""Which files a data directory has, and what of it is loaded."""

import subprocess
import sys
from pathlib import Path

from app.worker.run_files.choice import note_files, run_files
from app.worker.run_files.local import LocalFiles
from app.worker.run_files.remote import RemoteFiles
from storage.data_dir import DataDir

ROOT = Path(__file__).parents[4]


def test_the_directory_itself_unless_an_address_is_named(tmp_path: Path) -> None:
    assert isinstance(run_files(DataDir(tmp_path)), LocalFiles)
    assert isinstance(run_files(DataDir(tmp_path, files="s3://studio/team")), RemoteFiles)


def test_without_an_address_nothing_of_stores_is_loaded() -> None:
    code = (
        "import sys; from pathlib import Path; from storage.data_dir import DataDir\n"
        "from app.worker.run_files.choice import run_files; run_files(DataDir(Path('x'))).check()\n"
        "print([n for n in sys.modules if n.split('.')[0] in ('fsspec', 's3fs', 'botocore')\n"
        "       or n in ('app.worker.run_files.remote', 'app.worker.run_files.address')])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_jobs_of_a_cluster_find_the_address_in_the_directory(tmp_path: Path) -> None:
    note_files(DataDir(tmp_path, files="s3://studio/team"))
    assert DataDir.used_with(tmp_path, None).files == "s3://studio/team"
    note_files(DataDir(tmp_path))
    assert DataDir.used_with(tmp_path, None).files is None
