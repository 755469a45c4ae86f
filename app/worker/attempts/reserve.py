"""Disk space that an attempt keeps, so that a full disk can still be recorded as the cause."""

from storage.data_dir import RunDir

RESERVE_BYTES = 1_000_000


def keep(run: RunDir) -> None:
    run.path.mkdir(parents=True, exist_ok=True)
    run.reserve.write_bytes(b"\1" * RESERVE_BYTES)


def give_up(run: RunDir) -> None:
    run.reserve.unlink(missing_ok=True)
