"""Rows from JSON lines, Parquet, folders and the hub; and what is said while they are fetched."""

import gzip
import json

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

from opd.config.data import DataConfig
from opd.config.folders import is_local
from opd.config.run import check_inputs, parse
from opd.data import sources
from opd.data.sources import RowSelection, has_splits, open_table
from opd.errors import ConfigError, UserError
from opd.models.folders.progress import amount, download_bar, throttled

TABLE = [{"question": f"q{i}", "n": i} for i in range(7)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def opened(source, *, split="train", enough=100, say=lambda _: None, **fields):
    data = DataConfig.model_validate({"source": str(source), **fields})
    return open_table(data, data.source, RowSelection(split, enough, "prompts.source", say))


def values(table, indices=None):
    return [dict(row.fields) for row in table.take(indices or range(table.count))]


def refusal(source, **options):
    with pytest.raises(UserError) as caught:
        opened(source, **options)
    return caught.value


def write_lines(path, table=TABLE):
    path.write_text("".join(json.dumps(row) + "\n" for row in table))


def test_json_lines(tmp_path):
    write_lines(tmp_path / "a.jsonl")
    table = opened(tmp_path / "a.jsonl")
    assert table.columns is None
    assert values(table) == TABLE
    assert table.take([3])[0].where == f"{tmp_path}/a.jsonl:4"
    (tmp_path / "b.jsonl").write_text('{"n": 1}\n\n{"n": 2}\n{')
    assert opened(tmp_path / "b.jsonl", enough=2).count == 2  # what comes after is not looked at
    assert f"{tmp_path}/b.jsonl:4: not valid JSON" in str(refusal(tmp_path / "b.jsonl"))


def test_parquet_reads_the_groups_it_needs(tmp_path):
    pq.write_table(pa.Table.from_pylist(TABLE), tmp_path / "a.parquet", row_group_size=2)
    table = opened(tmp_path / "a.parquet")
    assert (table.columns, table.count) == (("question", "n"), 7)
    assert [row["n"] for row in values(table, [6, 0, 3])] == [6, 0, 3]
    assert table.take([6])[0].where.endswith("a.parquet row 7")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    assert "cannot be read" in str(refusal(tmp_path / "bad.parquet"))


def test_saved_data_sets(tmp_path):
    saved = datasets.Dataset.from_list(TABLE)
    saved.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=saved, test=saved.select([5])).save_to_disk(tmp_path / "many")
    assert values(opened(tmp_path / "one")) == TABLE
    assert values(opened(tmp_path / "many"), [2, 0]) == [TABLE[2], TABLE[0]]
    assert values(opened(tmp_path / "many", split="test")) == [TABLE[5]]
    error = refusal(tmp_path / "many", split="dev")
    assert "no split 'dev'; it has train, test" in error.message
    assert error.kind == "missing data"
    assert has_splits(str(tmp_path / "many"))
    assert not has_splits(str(tmp_path / "one"))
    (tmp_path / "one" / "state.json").write_text("{")
    assert "cannot be read" in str(refusal(tmp_path / "one"))


@pytest.mark.parametrize("form", ["parquet", "jsonl", "json", "arrow", "jsonl.gz", "csv"])
def test_folders_of_files(tmp_path, form):
    folder = tmp_path / "set"
    folder.mkdir()
    for name, part in {"train-0": TABLE[:4], "train-1": TABLE[4:], "test-0": TABLE[:1]}.items():
        path, table = folder / f"{name}.{form}", pa.Table.from_pylist(part)
        if form == "parquet":
            pq.write_table(table, path)
        elif form == "arrow":
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
        elif form == "csv":
            path.write_text("question,n\n" + "".join(f"{r['question']},{r['n']}\n" for r in part))
        elif form == "jsonl.gz":
            with gzip.open(path, "wt") as file:
                file.writelines(json.dumps(row) + "\n" for row in part)
        else:
            write_lines(path, part)
    said = []
    every = [r | {"n": str(r["n"])} for r in TABLE] if form == "csv" else TABLE
    assert values(opened(folder, say=said.append)) == every
    assert said[0] == f"loading {folder}"
    assert values(opened(folder, split="test")) == every[:1]
    error = refusal(folder, split="dev")
    assert "test" in error.message
    if form == "parquet":  # the second file is not needed
        assert opened(folder, enough=3).count == 4


def test_files_of_another_form_in_a_folder_are_named(tmp_path):
    write_lines(tmp_path / "train-0.jsonl")
    write_lines(tmp_path / "train-1.jsonl")
    pq.write_table(pa.Table.from_pylist(TABLE), tmp_path / "more.parquet")
    (tmp_path / "dataset_infos.json").write_text("{}")
    said = []
    assert len(values(opened(tmp_path, say=said.append))) == 14
    assert said[-1].endswith("have another form: more.parquet")


def test_files_are_what_their_bytes_say(tmp_path):
    table = pa.Table.from_pylist(TABLE)
    pq.write_table(table, tmp_path / "parquet.data")
    feather.write_feather(table, tmp_path / "a.feather")
    with (
        pa.OSFile(str(tmp_path / "s.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as writer,
    ):
        writer.write_table(table)
    for name in ("parquet.data", "a.feather", "s.arrow"):
        opened_table = opened(tmp_path / name)
        assert (opened_table.columns, values(opened_table)) == (("question", "n"), TABLE)
    (tmp_path / "bad.arrow").write_bytes(b"ARROW1")
    assert "cannot be read" in str(refusal(tmp_path / "bad.arrow"))


def test_folders_that_are_no_data(tmp_path):
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "empty").kind == "missing data"
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"")
    error = refusal(tmp_path / "images")
    assert "only Parquet, JSON, CSV and Arrow" in error.message
    (tmp_path / "script").mkdir()
    (tmp_path / "script" / "script.py").write_text("raise SystemExit")
    assert "scripts are no longer supported" in refusal(tmp_path / "script").message
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "train.json").write_text("{")
    assert "train.json:1: not valid JSON" in str(refusal(tmp_path / "bad"))


class Hub:
    """Answers as the hub does, from a folder."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.fetched = folder, []
        monkeypatch.setattr(datasets, "load_dataset_builder", self.builder)
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", self.download)
        self.real = datasets.load.load_dataset_builder

    def builder(self, source, subset):
        module = self.real(str(self.folder))
        module.config.data_files = {
            split: [f"hf://datasets/{source}@refs%2Fx/{f.rpartition('/')[2]}" for f in files]
            for split, files in module.config.data_files.items()
        }
        return module

    def download(self, repository, path, *, repo_type, revision, tqdm_class):
        assert (repo_type, revision) == ("dataset", "refs/x")
        with tqdm_class(total=40_000_000, unit="B", unit_scale=True, desc=path) as bar:
            bar.update(12_000_000)
        self.fetched.append(path)
        return str(self.folder / path)


def test_hub_files_are_fetched_until_there_are_enough_rows(tmp_path, monkeypatch):
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(3):
        part = pa.Table.from_pylist(TABLE[:4])
        pq.write_table(part, folder / f"train-{number:05}-of-00003.parquet")
    hub, said = Hub(folder, monkeypatch), []
    table = opened("some/data", enough=5, say=said.append)
    assert (table.count, len(hub.fetched)) == (8, 2)
    assert "downloading some/data, file 1 of 3: 12 of 40 MB" in said
    assert table.take([4])[0].where == "some/data row 5"


def test_hub_data_that_cannot_be_had(tmp_path, monkeypatch):
    def raising(error):
        def builder(source, subset):
            raise error

        monkeypatch.setattr(datasets, "load_dataset_builder", builder)

    raising(datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' is a gated dataset."))
    error = refusal("a/b")
    assert error.kind == "missing data"
    assert "HF_TOKEN" in error.message
    assert "Check the name" in error.message
    raising(ConnectionError("Couldn't reach 'a/b' on the Hub"))
    assert "a/b cannot be loaded: Couldn't reach" in refusal("a/b").message
    raising(ValueError("BuilderConfig 'x' not found. Available: ['main']"))
    assert "Available: ['main']" in refusal("a/b", subset="x").message
    with pytest.raises(UserError, match="outside the hub"):
        sources._fetched("https://x.y/z.parquet", "", RowSelection("train", 1, "prompts.source"))


def test_local_or_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some").mkdir()
    for local in ("./a", "/a", "~/a", "a.jsonl", "a/b.parquet", "a/b/c", "some", "../x", "x.json"):
        assert is_local(local)
    for hub in ("openai/gsm8k", "gsm8k", "a" * 400):
        assert not is_local(hub)


def test_data_is_looked_at_before_a_run_is_made(tmp_path):
    write_lines(tmp_path / "a.jsonl")
    good = {"prompts": {"source": str(tmp_path), "eval_source": str(tmp_path / "a.jsonl")}}
    check_inputs(parse(good))
    check_inputs(parse({"evaluation": {"suites": {"gsm": "openai/gsm8k", "own": "bundled"}}}))
    config = {
        "prompts": {"source": "./none", "eval_source": "none.parquet"},
        "evaluation": {"suites": {"mine": str(tmp_path / "none.jsonl")}},
    }
    with pytest.raises(ConfigError) as caught:
        check_inputs(parse(config))
    messages = {p["field"]: p["message"] for p in caught.value.problems}
    assert set(messages) == {
        "prompts.source",
        "prompts.eval_source",
        "evaluation.suites.mine.source",
    }
    assert all("No such file" in message for message in messages.values())


def test_what_is_said_is_limited_by_the_clock():
    now, said = [0.0], []
    say = throttled(said.append, clock=lambda: now[0])
    for at in (0, 0.1, 0.49, 0.5, 0.9, 1.1):
        now[0] = at
        say(str(at))
    assert said == ["0", "0.5", "1.1"]


@pytest.mark.parametrize(
    ("done", "total", "text"),
    [
        (12e6, 40e6, "12 of 40 MB"),
        (5e5, 2e6, "0.5 of 2.0 MB"),
        (3e7, None, "30 MB"),
        (5e7, 4e7, "50 of 50 MB"),
    ],
)
def test_amounts(done, total, text):
    assert amount(done, total) == text


def test_bars_speak_and_draw_nothing(capfd):
    now, said = [0.0], []
    bar = download_bar("downloading a/b", said.append, clock=lambda: now[0])
    names = {"desc": "Downloading bytes", "unit": "B", "name": "transfer"}
    received, files = bar(total=100e6, **names), bar(total=3, desc="Fetching")
    written = bar(total=0, initial=0, unit="B", unit_scale=True, bar_format="{n}")
    written.total = 100e6  # as snapshot_download learns of each file
    for _ in range(10):
        now[0] += 0.25
        received.update(30e6)
        written.update(10e6)
        files.update(1)
    received.set_description_str("Download complete")
    for one in (received, written, files):
        one.close()
    assert said == [f"downloading a/b: {n} of 100 MB" for n in (10, 30, 50, 70, 90)]
    assert bar.get_lock() is not None
    assert capfd.readouterr() == ("", "")
