"""Rows of data from any source: a file, a folder of a data set, or the hub.

Only JSON, CSV, Parquet and Arrow files are read: nothing pickled, no code of a data set. A source
is opened first and its rows are made when asked for, so that a few of a large one cost little.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from opd.config.data import DataConfig
from opd.config.folders import DATA_ENDINGS, is_local
from opd.data.files import SEPARATED, file_rows, text_ending
from opd.data.rows import Row, Table, bad_data
from opd.errors import ErrorKind, UserError, one_line
from opd.files import expanded
from opd.models.folders.progress import Say, download_bar

TEXT_FORMATS = ("json", "csv")
FORMATS = ("parquet", "arrow", *TEXT_FORMATS)
ARROW_ENDINGS = (".arrow", ".feather")
ABOUT = ("dataset_infos.json", "dataset_info.json")  # describe a data set
HUB_FILE = re.compile(r"hf://datasets/([^@]+)@([^/]+)/(.+)")


@dataclass(frozen=True)
class RowSelection:
    """Which rows of a source: at most `enough` of `split`; errors name the setting `field`."""

    split: str
    enough: int
    field: str
    say: Say = lambda _: None


def open_table(data: DataConfig, source: str, selection: RowSelection) -> Table:
    """Raises UserError for a source that is not there, cannot be read, or holds no rows."""
    selection.say(f"loading {source}")
    if not is_local(source):
        table = _from_hub(data, source, selection)
    else:
        path = expanded(source)
        table = (
            _from_folder(data, path, selection) if path.is_dir() else _from_file(path, selection)
        )
    if not table.count:
        raise bad_data(selection.field, f"{source} holds no prompts")
    return table


def has_splits(source: str) -> bool:
    """Whether a source is made of splits: hub ids are, and folders, but for one saved table."""
    path = expanded(source)
    return not is_local(source) or (path.is_dir() and not (path / "state.json").exists())


def _from_file(path: Path, selection: RowSelection) -> Table:
    """What a file is, its first bytes say, else its ending."""
    try:
        with path.open("rb") as file:
            head = file.read(6)
    except OSError as error:
        raise bad_data(selection.field, f"{path} cannot be read: {error.strerror}") from None
    if head.startswith(b"PAR1") or path.suffix == ".parquet":
        return _parquet(str(path), [path], selection)
    if head.startswith(b"ARROW1") or path.suffix in ARROW_ENDINGS:
        from opd.data.arrow import feather_table  # noqa: PLC0415 - only where there is Arrow

        return feather_table(str(path), path, selection.field)
    return _text_files(str(path), [path], selection)


def _text_files(name: str, paths: Sequence[Path], selection: RowSelection) -> Table:
    rows: list[Row] = []
    for path in paths:
        part = file_rows(path, selection.field)
        rows += islice(part, max(0, selection.enough - len(rows)))
    separated = all(text_ending(path) in SEPARATED for path in paths)
    columns = tuple(rows[0].fields) if rows and separated else None
    return Table(name, columns, len(rows), lambda indices: [rows[i] for i in indices])


def _parquet(name: str, paths: Sequence[Path], selection: RowSelection) -> Table:
    from opd.data.arrow import parquet_table  # noqa: PLC0415 - only where there is Parquet

    return parquet_table(name, paths, selection.field)


def _from_folder(data: DataConfig, folder: Path, selection: RowSelection) -> Table:
    from datasets import load_from_disk  # noqa: PLC0415 - takes seconds to import

    if not any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return _from_data_files(data, str(folder.resolve()), selection)
    try:
        loaded = load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise bad_data(selection.field, f"{folder} cannot be read: {one_line(error)}") from None
    if isinstance(loaded, dict):
        if selection.split not in loaded:
            raise _no_split(str(folder), selection, loaded)
        loaded = loaded[selection.split]
    return _data_set(str(folder), loaded)


def _from_hub(data: DataConfig, source: str, selection: RowSelection) -> Table:
    from datasets.exceptions import DatasetNotFoundError  # noqa: PLC0415 - seconds to import

    from opd.network import hub_proxy, through  # noqa: PLC0415 - imports httpx, only for the hub

    way = through(hub_proxy())
    try:
        return _from_data_files(data, source, selection, way)
    except DatasetNotFoundError as error:
        raise UserError(
            f"{one_line(error)}{way} Check the name; for a gated or private data set, ask for "
            "access on its page and set HF_TOKEN",
            where=selection.field,
            kind=ErrorKind.MISSING_DATA,
        ) from None


def _from_data_files(
    data: DataConfig, source: str, selection: RowSelection, way: str = ""
) -> Table:
    """A split's files, as `datasets` finds them by their names and the data set's README. `way`:
    what errors say of how the hub was reached."""
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
            f"{source} cannot be loaded: {one_line(error)}{way}",
            where=selection.field,
            kind=ErrorKind.MISSING_DATA,
        ) from None
    form = type(builder).__module__.rpartition(".")[2]
    if form not in FORMATS:
        raise UserError(
            f"{source} is made of {form} files; only Parquet, JSON, CSV and Arrow files are read",
            where=selection.field,
            kind=ErrorKind.REFUSED_DATA,
        )
    splits = builder.config.data_files or {}
    if selection.split not in splits:
        raise _no_split(source, selection, splits)
    _tell_left_out(source, [str(f) for files in splits.values() for f in files], selection.say)
    return _files(form, source, [str(f) for f in splits[selection.split]], selection)


def _tell_left_out(source: str, chosen: Sequence[str], say: Say) -> None:
    """Names the files of a folder that look like data and belong to no split."""
    folder = Path(source)
    if not folder.is_dir():
        return
    taken = {Path(f).resolve() for f in chosen}
    others = [
        p.name
        for p in sorted(folder.iterdir())
        if p.suffix in DATA_ENDINGS and p.name not in ABOUT and p.resolve() not in taken
    ]
    if others:
        say(f"not read, as other files of {source} have another form: {', '.join(others[:5])}")


def _files(form: str, source: str, files: Sequence[str], selection: RowSelection) -> Table:
    """Parquet files are fetched until they hold enough rows; of other forms, all are."""
    paths: list[Path] = []
    for number, file in enumerate(files, 1):
        part = f", file {number} of {len(files)}" if len(files) > 1 else ""
        paths.append(_fetched(file, f"downloading {source}{part}", selection))
        if form == "parquet":
            table = _parquet(source, paths, selection)
            if table.count >= selection.enough:
                return table
    if form == "parquet":
        return table
    if form in TEXT_FORMATS:
        return _text_files(source, paths, selection)
    return _converted(form, source, paths, selection)


def _fetched(file: str, label: str, selection: RowSelection) -> Path:
    """The file on this disk: where it is, or downloaded into the hub's cache."""
    if "://" not in file:
        return Path(file)
    from huggingface_hub import hf_hub_download  # noqa: PLC0415 - only for the hub
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415

    from opd.network import hub_proxy, through  # noqa: PLC0415 - imports httpx, only for the hub

    hub_file = HUB_FILE.fullmatch(file)
    if hub_file is None:
        raise UserError(
            f"{file} lies outside the hub and is not fetched",
            where=selection.field,
            kind=ErrorKind.REFUSED_DATA,
        )
    repository, revision, path = hub_file.groups()
    selection.say(label)
    proxy = hub_proxy()
    try:
        return Path(
            hf_hub_download(
                repository,
                path,
                repo_type="dataset",
                revision=unquote(revision),
                tqdm_class=download_bar(label, selection.say),
            )
        )
    except (OSError, ValueError, RuntimeError, HfHubHTTPError) as error:
        raise UserError(
            f"{file} could not be fetched: {one_line(error)}{through(proxy)}",
            where=selection.field,
            kind=ErrorKind.MISSING_DATA,
        ) from None


def _converted(form: str, source: str, paths: Sequence[Path], selection: RowSelection) -> Table:
    from datasets import load_dataset  # noqa: PLC0415 - takes seconds to import
    from datasets.exceptions import DatasetsError  # noqa: PLC0415

    selection.say(f"reading {source}")
    files = {"train": [str(p) for p in paths]}
    try:
        return _data_set(source, load_dataset(form, data_files=files, split="train"))
    except (OSError, ValueError, TypeError, DatasetsError) as error:
        cause = error.__cause__ or error
        raise bad_data(selection.field, f"{source} cannot be read: {one_line(cause)}") from None


def _data_set(name: str, dataset: Any) -> Table:
    """Rows as Arrow holds them: images and sounds stay bytes and are not decoded."""
    from opd.data.arrow import python_rows  # noqa: PLC0415 - only where there is Arrow

    plain = dataset.with_format("arrow")

    def take(indices: Sequence[int]) -> list[Row]:
        values = python_rows(plain[list(indices)]) if indices else []
        return [Row(v, f"{name} row {i + 1}") for i, v in zip(indices, values, strict=True)]

    return Table(name, tuple(dataset.column_names), len(dataset), take)


def _no_split(source: str, selection: RowSelection, splits: Mapping[str, Any]) -> UserError:
    return UserError(
        f"{source} has no split {selection.split!r}; "
        f"it has {', '.join(map(str, splits)) or 'none'}",
        where=selection.field,
        kind=ErrorKind.MISSING_DATA,
    )
