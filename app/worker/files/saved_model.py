"""The trained student of a run as a folder, for `opd save`, or as an archive, for pages."""

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from app.worker.run_files.choice import run_files
from opd.config.model_files.weights import ADAPTER
from opd.config.run import parse
from opd.errors import UserError
from opd.training.checkpoint_manifest import BESIDE_THE_MODEL, OPTIMIZER
from opd.types import Score
from storage.data_dir import DataDir
from storage.read.runs import read_evaluations, read_run

BLOCK = tarfile.BLOCKSIZE


def newest_checkpoint(run: dict[str, Any]) -> dict[str, Any]:
    """Its row, of a run as read_run gives it. Raises UserError where there is none."""
    if not run["checkpoints"]:
        raise UserError("has no checkpoint to save", where=run["id"])
    saved: dict[str, Any] = run["checkpoints"][-1]
    return saved


def model_size(data_dir: DataDir, run: dict[str, Any]) -> dict[str, Any] | None:
    """{"step", "bytes", "adapter"} of what would be saved, "bytes" but for the model card; None
    without a checkpoint."""
    if not run["checkpoints"]:
        return None
    saved = newest_checkpoint(run)
    size = archive_size(_kept(data_dir, run["id"], saved))
    return {"step": int(saved["step"]), "bytes": size, "adapter": ADAPTER in saved["manifest"]}


def room_for(data_dir: DataDir, run: dict[str, Any], *, merge: bool) -> int:
    """Bytes of disk that making the archive takes, as far as they are known before; a merged model
    lies there twice for a moment. Raises UserError without a checkpoint."""
    archive = archive_size(_kept(data_dir, run["id"], newest_checkpoint(run)))
    if not merge:
        return archive
    base = Path(str(run["resolved"].get("student", "")))
    weights = [path.stat().st_size for path in base.glob("*.safetensors")]
    return archive + 2 * archive_size(weights)


def save_model(
    engine: Engine,
    data_dir: DataDir,
    run_id: str,
    out: Path,
    *,
    merge: bool = False,
    link: bool = False,
) -> int:
    """Writes the newest checkpoint's student to the folder `out`, all of it or nothing; its step.

    merge: an adapter is merged into its base. link: files of the checkpoint are not copied where
    both lie on one disk; whoever changes them changes the checkpoint. Raises UserError.
    """
    from app.worker.references import resolved  # noqa: PLC0415 - loads torch
    from opd.training.saving import Provenance  # noqa: PLC0415 - loads torch
    from opd.training.saving import save as save_student  # noqa: PLC0415

    run = read_run(engine, run_id)
    saved = newest_checkpoint(run)
    step, folder = int(saved["step"]), run_files(data_dir).bring(run_id, saved, (OPTIMIZER,))
    config = parse(run["config"])
    scores = read_evaluations(engine, run_id)["items"]
    last = max((s["step"] for s in scores), default=0)
    before, after = _scores(scores, 0), _scores(scores, last)
    made = Provenance(run_id, config, step, run["versions"], before=before, after=after)
    base = resolved(engine, data_dir, config, run_id).student.model if merge else ""
    save_student(folder, out, made, merge_into=base, link=link)
    return step


def write_archive(folder: Path, path: Path, name: str, on_block: Callable[[int], None]) -> None:
    """The folder as the uncompressed archive `path`, under `name`. `on_block` is told the bytes
    written so far, now and then, and may raise."""
    written = 0

    class Watched:
        def __init__(self, file: Any) -> None:
            self._file = file

        def read(self, size: int = -1, /) -> Any:
            nonlocal written
            data = self._file.read(size)
            written += len(data)
            on_block(written)
            return data

    # GNU's form has whole seconds and no further headers, so that its size is known before
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            info = archive.gettarinfo(file, f"{name}/{file.relative_to(folder).as_posix()}")
            info.type, info.linkname, info.size = tarfile.REGTYPE, "", file.stat().st_size
            info.uid, info.gid, info.uname, info.gname, info.mode = 0, 0, "", "", 0o644
            with file.open("rb") as content:
                archive.addfile(info, Watched(content))


def archive_size(sizes: list[int]) -> int:
    """Bytes of an archive of files of these sizes, as write_archive makes it."""
    content = sum(BLOCK + -(-size // BLOCK) * BLOCK for size in sizes) + 2 * BLOCK
    return -(-content // tarfile.RECORDSIZE) * tarfile.RECORDSIZE


def folder_sizes(folder: Path) -> list[int]:
    return [path.stat().st_size for path in folder.rglob("*") if path.is_file()]


def _kept(data_dir: DataDir, run_id: str, saved: dict[str, Any]) -> list[int]:
    """Sizes of the checkpoint's files that a saved model has."""
    sizes = run_files(data_dir).sizes(run_id, saved)
    return [size for name, size in sizes.items() if Path(name).name not in BESIDE_THE_MODEL]


def _scores(items: list[dict[str, Any]], step: int) -> list[Score]:
    names = ("suite", "metric", "value", "n", "standard_error")
    return [Score(**{name: s[name] for name in names}) for s in items if s["step"] == step]
