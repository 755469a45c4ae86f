"""Rows of data from any source: JSON lines, Parquet, a folder of a data set, or the hub.

Only JSON, Parquet and Arrow files are read: nothing pickled, no code of a data set. A source is
opened first and its rows are made when asked for, so that a few rows of a large one cost little.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from opd.config.data import DataConfig
from opd.config.folders import is_local
from opd.errors import ErrorKind, UserError, one_line
from opd.models.progress import Say, download_bar

MAX_LINE_BYTES = 4_000_000
LINE_ENDINGS = (".jsonl", ".ndjson")
FORMATS = ("parquet", "json", "arrow")
HUB_FILE = re.compile(r"hf://datasets/([^@]+)@([^/]+)/(.+)")


@dataclass(frozen=True)
class Row:
    """One row; `where` names it for people: file and line, or data set and row."""

    fields: Mapping[str, Any]
    where: str


@dataclass(frozen=True)
class Table:
    """An opened source. `columns` is None where each row has its own, as in JSON lines."""

    name: str
    columns: tuple[str, ...] | None
    count: int
    take: Callable[[Sequence[int]], list[Row]]


@dataclass(frozen=True)
class RowSelection:
    """Which rows of a source: `enough` are asked for at most; `field` is what names the source."""

    split: str
    enough: int
    field: str
    say: Say = lambda _: None


def open_table(data: DataConfig, source: str, wanted: RowSelection) -> Table:
    """Raises UserError for a source that is not there, cannot be read, or holds no rows."""
    wanted.say(f"loading {source}")
    if not is_local(source):
        table = _from_hub(data, source, wanted)
    else:
        path = Path(source).expanduser()
        table = _from_folder(data, path, wanted) if path.is_dir() else _from_file(path, wanted)
    if not table.count:
        raise bad_data(wanted.field, f"{source} holds no prompts")
    return table


def has_splits(source: str) -> bool:
    """Whether a source is made of splits: hub ids are, and folders, but for one saved table."""
    path = Path(source).expanduser()
    return not is_local(source) or (path.is_dir() and not (path / "state.json").exists())


def _from_file(path: Path, wanted: RowSelection) -> Table:
    if path.suffix == ".parquet":
        return _parquet(str(path), [path], wanted)
    return _json_lines(str(path), [path], wanted)


def _json_lines(name: str, paths: Sequence[Path], wanted: RowSelection) -> Table:
    rows: list[Row] = []
    for path in paths:
        rows += islice(_lines(path, wanted.field), max(0, wanted.enough - len(rows)))
    return Table(name, None, len(rows), lambda indices: [rows[i] for i in indices])


def _lines(path: Path, field: str) -> Iterator[Row]:
    try:
        with path.open(encoding="utf-8") as lines:
            for n, line in enumerate(lines, 1):
                if line.strip():
                    yield Row(_object(line, f"{path}:{n}"), f"{path}:{n}")
    except OSError as error:
        raise bad_data(field, f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise bad_data(field, f"{path} is not UTF-8 text: {error.reason}") from None


def _object(line: str, where: str) -> dict[str, Any]:
    if len(line) > MAX_LINE_BYTES:
        raise bad_data(where, f"the line is longer than {MAX_LINE_BYTES} characters")
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise bad_data(where, f"not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise bad_data(where, "must be a JSON object")
    return data


def _parquet(name: str, paths: Sequence[Path], wanted: RowSelection) -> Table:
    """Reads the row groups that hold the rows asked for."""
    import pyarrow as pa  # noqa: PLC0415 - only where there is Parquet
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        files = [pq.ParquetFile(path) for path in paths]
    except (OSError, pa.ArrowException) as error:
        raise bad_data(wanted.field, f"{name} cannot be read: {one_line(error)}") from None
    groups = [
        (file, number, file.metadata.row_group(number).num_rows)
        for file in files
        for number in range(file.metadata.num_row_groups)
    ]

    def take(indices: Sequence[int]) -> list[Row]:
        found: dict[int, Any] = {}
        first = 0
        for file, number, size in groups:
            inside = sorted({i for i in indices if first <= i < first + size})
            if inside:
                try:
                    group = file.read_row_group(number)
                except (OSError, pa.ArrowException) as error:
                    raise bad_data(
                        wanted.field, f"{name} cannot be read: {one_line(error)}"
                    ) from None
                values = group.take([i - first for i in inside]).to_pylist()
                found |= dict(zip(inside, values, strict=True))
            first += size
        return [Row(found[i], f"{name} row {i + 1}") for i in indices]

    columns = tuple(files[0].schema_arrow.names)
    return Table(name, columns, sum(size for *_, size in groups), take)


def _from_folder(data: DataConfig, folder: Path, wanted: RowSelection) -> Table:
    from datasets import load_from_disk  # noqa: PLC0415 - takes seconds to import

    if not any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return _from_data_files(data, str(folder.resolve()), wanted)
    try:
        found = load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise bad_data(wanted.field, f"{folder} cannot be read: {one_line(error)}") from None
    if isinstance(found, dict):
        if wanted.split not in found:
            raise _no_split(str(folder), wanted, found)
        found = found[wanted.split]
    return _data_set(str(folder), found)


def _from_hub(data: DataConfig, source: str, wanted: RowSelection) -> Table:
    from datasets.exceptions import DatasetNotFoundError  # noqa: PLC0415 - seconds to import

    try:
        return _from_data_files(data, source, wanted)
    except DatasetNotFoundError as error:
        raise UserError(
            f"{one_line(error)} Check the name; for a gated or private data set, ask for access on "
            "its page and set HF_TOKEN",
            where=wanted.field,
            kind=ErrorKind.MISSING_DATA,
        ) from None


def _from_data_files(data: DataConfig, source: str, wanted: RowSelection) -> Table:
    """A split's files, as `datasets` finds them by their names and the data set's README."""
    from datasets import disable_progress_bars, load_dataset_builder  # noqa: PLC0415 - seconds
    from datasets.exceptions import DatasetNotFoundError, DatasetsError  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415

    disable_progress_bars()
    try:
        builder = load_dataset_builder(source, data.subset)
    except DatasetNotFoundError:
        raise
    except (OSError, ValueError, RuntimeError, DatasetsError, HfHubHTTPError) as error:
        raise UserError(
            f"{source} cannot be loaded: {one_line(error)}",
            where=wanted.field,
            kind=ErrorKind.MISSING_DATA,
        ) from None
    form = type(builder).__module__.rpartition(".")[2]
    if form not in FORMATS:
        raise UserError(
            f"{source} is made of {form} files; only Parquet, JSON and Arrow files are read",
            where=wanted.field,
            kind=ErrorKind.REFUSED_DATA,
        )
    splits = builder.config.data_files or {}
    if wanted.split not in splits:
        raise _no_split(source, wanted, splits)
    return _files(form, source, [str(f) for f in splits[wanted.split]], wanted)


def _files(form: str, source: str, files: Sequence[str], wanted: RowSelection) -> Table:
    """Parquet files are fetched until they hold enough rows; of other forms, all are."""
    paths: list[Path] = []
    for number, file in enumerate(files, 1):
        part = f", file {number} of {len(files)}" if len(files) > 1 else ""
        paths.append(_fetched(file, f"downloading {source}{part}", wanted))
        if form == "parquet":
            table = _parquet(source, paths, wanted)
            if table.count >= wanted.enough:
                return table
    if form == "parquet":
        return table
    if form == "json" and all(f.endswith(LINE_ENDINGS) for f in files):
        return _json_lines(source, paths, wanted)
    return _converted(form, source, paths, wanted)


def _fetched(file: str, label: str, wanted: RowSelection) -> Path:
    """The file on this disk: where it is, or downloaded into the hub's cache."""
    if "://" not in file:
        return Path(file)
    from huggingface_hub import hf_hub_download  # noqa: PLC0415 - only for the hub
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415

    place = HUB_FILE.fullmatch(file)
    if place is None:
        raise UserError(
            f"{file} lies outside the hub and is not fetched",
            where=wanted.field,
            kind=ErrorKind.REFUSED_DATA,
        )
    repository, revision, path = place.groups()
    wanted.say(label)
    try:
        return Path(
            hf_hub_download(
                repository,
                path,
                repo_type="dataset",
                revision=unquote(revision),
                tqdm_class=download_bar(label, wanted.say),
            )
        )
    except (OSError, ValueError, RuntimeError, HfHubHTTPError) as error:
        raise UserError(
            f"{file} could not be fetched: {one_line(error)}",
            where=wanted.field,
            kind=ErrorKind.MISSING_DATA,
        ) from None


def _converted(form: str, source: str, paths: Sequence[Path], wanted: RowSelection) -> Table:
    from datasets import load_dataset  # noqa: PLC0415 - takes seconds to import
    from datasets.exceptions import DatasetsError  # noqa: PLC0415

    wanted.say(f"reading {source}")
    files = {"train": [str(p) for p in paths]}
    try:
        return _data_set(source, load_dataset(form, data_files=files, split="train"))
    except (OSError, ValueError, TypeError, DatasetsError) as error:
        cause = error.__cause__ or error
        raise bad_data(wanted.field, f"{source} cannot be read: {one_line(cause)}") from None


def _data_set(name: str, found: Any) -> Table:
    """Rows as Arrow holds them: images and sounds stay bytes and are not decoded."""
    plain = found.with_format("arrow")

    def take(indices: Sequence[int]) -> list[Row]:
        values = plain[list(indices)].to_pylist() if indices else []
        return [Row(v, f"{name} row {i + 1}") for i, v in zip(indices, values, strict=True)]

    return Table(name, tuple(found.column_names), len(found), take)


def _no_split(source: str, wanted: RowSelection, splits: Mapping[str, Any]) -> UserError:
    return UserError(
        f"{source} has no split {wanted.split!r}; it has {', '.join(map(str, splits)) or 'none'}",
        where=wanted.field,
        kind=ErrorKind.MISSING_DATA,
    )


def bad_data(where: str, message: str) -> UserError:
    return UserError(message, where=where, kind=ErrorKind.BAD_DATA)
