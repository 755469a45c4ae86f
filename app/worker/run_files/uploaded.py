"""Data files that were uploaded to another host's server: brought to where a run reads them."""

from pathlib import Path
from typing import Any

from app.worker.run_files.choice import run_files
from opd.config.run import RunConfig, parse
from storage.data_dir import DataDir


def with_uploads(data_dir: DataDir, config: RunConfig) -> RunConfig:
    """The configuration with uploads of other hosts as files of this one. What is not found stays
    as it was; reading it says so."""
    if data_dir.files is None:
        return config
    before = config.model_dump(mode="json")
    after = _placed(data_dir, before)
    return config if after == before else parse(after)


def _placed(data_dir: DataDir, value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _placed(data_dir, part) for name, part in value.items()}
    if isinstance(value, list):
        return [_placed(data_dir, part) for part in value]
    if not isinstance(value, str) or "/uploads/" not in value or Path(value).exists():
        return value
    path = Path(value)
    if path.parent.name != data_dir.uploads.name:
        return value
    fetched = run_files(data_dir).fetch(f"{data_dir.uploads.name}/{path.name}")
    return value if fetched is None else str(fetched)
