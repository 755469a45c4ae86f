"""Reports: one file, self-contained, with the stored numbers and without a way out."""

import base64
import gzip
import json
import posixpath
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, update

from app.report import ENTRY, INSTEAD, STATIC, modules, report
from opd.config.run import parse
from opd.errors import UserError
from opd.types import EvaluationEvent, Score, StepEvent
from storage import schema
from storage.engine import begin
from storage.queue import jobs
from storage.read.rollouts import read_rollouts
from storage.read.tokens import EXTRA_COLUMNS, MAIN_COLUMNS, read_tokens, read_topk
from tests.support.databases.matrix import new_database
from tests.support.stored_runs import rollout, started, texts

HOSTILE = '</script><script>alert(1)</script><!-- \u2028 </style><img src="https://x.test/a">'
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return new_database(tmp_path / "data")


def filled(engine: Engine, rollouts: int = 24, name: str = HOSTILE) -> str:
    run_id, writer = started(engine)
    with begin(engine) as connection:  # names once held anything
        connection.execute(update(schema.run).values(name=name))
    kept = [
        replace(rollout(1, group), completion=HOSTILE, prompt=f"{HOSTILE} {group}")
        for group in range(rollouts)
    ]
    metrics = {"reverse_kl": 0.5}
    writer.step(StepEvent(1, {"sample": 0.5}, 100, 1e9, metrics, kept), texts)
    writer.evaluation(EvaluationEvent(1, [Score(HOSTILE, "pass@1", 0.5, 50, 0.05)]), texts)
    return run_id


class Parts(HTMLParser):
    """What a browser would make of the file."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.tags[-1][0], data))


def blocks(text: str) -> dict[str, bytes]:
    matches = re.findall(r'<script type="text/plain" data-block="([^"]*)">([^<]*)</script>', text)
    return {name: gzip.decompress(base64.b64decode(data)) for name, data in matches}


def columns(payload: bytes) -> dict[str, np.ndarray]:
    size = int.from_bytes(payload[:4], "little")
    header, body = json.loads(payload[4 : 4 + size]), payload[4 + size :]
    return {
        c["name"]: np.frombuffer(body[c["offset"] : c["offset"] + c["length"]], c["dtype"])
        for c in header["columns"]
    }


def test_a_run_report_holds_its_worst_rollouts_with_their_stored_numbers(engine: Engine) -> None:
    run_id = filled(engine)
    made = report(engine, run_id, rollouts=5, version="1.2.3")
    held = blocks(made.html)
    data = json.loads(held["report"])
    worst = [r["id"] for r in read_rollouts(engine, run_id, limit=5)["items"]]
    assert set(worst) <= {r["id"] for r in data["rollouts"]}
    assert made.rollouts == len(data["rollouts"])
    sums = [r["kl_sum"] for r in data["rollouts"]]
    assert sums == sorted(sums, reverse=True)
    assert (data["total"], data["run"]["id"], data["made"]["version"]) == (24, run_id, "1.2.3")
    assert [r["right"] for r in data["rollouts"]] == [r["reward"] > 0.5 for r in data["rollouts"]]
    assert data["steps"]["reverse_kl"] == [0.5]
    assert data["evaluations"][0]["value"] == 0.5
    for one in data["rollouts"]:
        stored = read_tokens(engine, one["id"], (*MAIN_COLUMNS, *EXTRA_COLUMNS)).columns
        packed = columns(held[f"{one['id']}/tokens"])
        assert set(stored) == set(packed) - {"prompt_ids"}
        for name, values in stored.items():
            np.testing.assert_array_equal(packed[name], values)
    assert {t["rollout_id"] for t in data["hot"]} <= {r["id"] for r in data["rollouts"]}


def test_branches_are_not_the_runs_worst_rollouts(engine: Engine) -> None:
    run_id, writer = started(engine)
    record = rollout(1, 0).record
    assert record.reverse_kl is not None
    worse = replace(record, reverse_kl=record.reverse_kl + 9)
    kept = [rollout(1, 0), replace(rollout(1, 1), kind="branch", record=worse)]
    writer.step(StepEvent(1, {}, 40, 0.0, {}, kept), texts)
    data = json.loads(blocks(report(engine, run_id).html)["report"])
    assert [r["kind"] for r in data["rollouts"]] == ["train"]


def test_every_tokens_alternatives_are_those_of_the_server(engine: Engine) -> None:
    run_id = filled(engine, 1)
    [item] = read_rollouts(engine, run_id)["items"]
    packed = columns(blocks(report(engine, item["id"]).html)[f"{item['id']}/topk"])
    for position in range(item["tokens"]):
        stored = read_topk(engine, item["id"], position, 1)[0]
        for side, other in (("student", "teacher"), ("teacher", "student")):
            k = len(stored[side])
            at = slice(position * k, position * k + k)
            assert [e["id"] for e in stored[side]] == packed[f"{side}_topk_ids"][at].tolist()
            for part, by in (("logprobs", side), ("other", other)):
                expected = [e[f"{by}_logprob"] for e in stored[side]]
                np.testing.assert_array_equal(
                    packed[f"{side}_topk_{part}"][at], np.float32(expected)
                )


def test_a_rollout_report_holds_that_one(engine: Engine) -> None:
    run_id = filled(engine, 3)
    name = read_rollouts(engine, run_id, sort="kl_sum")["items"][0]["id"]
    made = report(engine, name)
    assert made.rollouts == 1
    assert set(blocks(made.html)) == {"report", f"{name}/tokens", f"{name}/topk"}
    assert json.loads(blocks(made.html)["report"])["opens"] == name


def test_hostile_text_is_never_markup(engine: Engine) -> None:
    run_id = filled(engine, 3)
    page = report(engine, run_id).html
    assert "alert(1)" not in page.replace("&lt;script&gt;alert(1)", "")
    parts = Parts(page)
    scripts = [attributes for tag, attributes in parts.tags if tag == "script"]
    kinds = [a.get("type") for a in scripts]
    assert kinds == ["importmap", *["text/plain"] * (len(scripts) - 2), "module"]
    assert not [tag for tag, _ in parts.tags if tag in ("img", "iframe", "object", "link", "base")]
    assert [data for tag, data in parts.texts if tag == "title"] == [
        f"{HOSTILE} · OPD Studio report"
    ]


def test_nothing_points_out_of_the_file(engine: Engine) -> None:
    page = report(engine, filled(engine, 2, "plain")).html
    for _, attributes in Parts(page).tags:
        assert not {"src", "href", "action", "srcset"} & set(attributes)
    policy = next(a["content"] for t, a in Parts(page).tags if t == "meta" and "http-equiv" in a)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert "connect-src" not in rules  # so that default-src decides
    assert "unsafe" not in rules["script-src"] and "http" not in policy
    style = page[page.index("<style>") : page.index("</style>")]
    assert set(re.findall(r"""url\(["']?(\w+:)""", style)) <= {"data:"}
    assert "@import" not in style
    for name, source in modules().items():
        urls = set(re.findall(r"https?://[^\s\"'`]+", source))
        assert urls <= {"http://www.w3.org/2000/svg"}, name


def test_the_scripts_are_the_dashboards_own() -> None:
    held = modules()
    assert {
        *(f"rollout/text/{n}.js" for n in ("tokens", "minimap", "metrics")),
        "rollout/panels/detail.js",
        ENTRY,
    } <= set(held)
    for name, source in held.items():
        specifiers = re.findall(r"""["']((?:\.\.?/|opd/)[^"']+)["']""", source)
        assert all(s.startswith("opd/") and s[4:] in held for s in specifiers), name
        path = INSTEAD.get(name, name)
        original = (STATIC / path).read_text(encoding="utf-8")
        folder = posixpath.dirname(path)
        absolute = re.sub(
            r'"(\.\.?/[^"]+)"',
            lambda match, at=folder: f'"opd/{posixpath.normpath(posixpath.join(at, match[1]))}"',
            original,
        )
        assert source == absolute, name
    assert "plotly.min.js" not in "".join(held.values())


@pytest.mark.parametrize("name", sorted(INSTEAD))
def test_what_stands_for_a_module_has_all_that_is_asked_of_it(name: str) -> None:
    imported = {
        part.strip().split(" as ")[0]
        for source in modules().values()
        for names in re.findall(rf'import \{{([^}}]*)\}} from "opd/{name}"', source)
        for part in names.split(",")
        if part.strip()
    }
    source = (STATIC / INSTEAD[name]).read_text(encoding="utf-8")
    given = set(re.findall(r"^export (?:async )?(?:function|class|const) (\w+)", source, re.M))
    for listed in re.findall(r"^export \{([^}]*)\}", source, re.M):
        given |= {part.strip().split(" as ")[-1] for part in listed.split(",")}
    assert imported and imported <= given


def test_sizes(engine: Engine) -> None:
    """Rollouts as long as the demo's; a run's report has 20 of them."""
    run_id = filled(engine, 30)
    one = read_rollouts(engine, run_id)["items"][0]["id"]
    assert len(report(engine, one).html.encode()) < 500_000
    assert len(report(engine, run_id).html.encode()) < 1_000_000


def test_a_damaged_record_is_left_out_or_named(engine: Engine) -> None:
    run_id = filled(engine, 3)
    bad = read_rollouts(engine, run_id)["items"][0]["id"]
    record = schema.token_record
    with begin(engine) as connection:
        connection.execute(
            update(record).where(record.c.rollout_id == bad).values(reverse_kl=b"\0" * 80)
        )
    held = json.loads(blocks(report(engine, run_id, rollouts=3).html)["report"])
    assert bad not in {r["id"] for r in held["rollouts"]} and len(held["rollouts"]) == 2
    with pytest.raises(UserError, match="the token record is damaged"):
        report(engine, bad)


def test_a_run_without_rollouts_and_one_without_tokens(engine: Engine, tmp_path: Path) -> None:
    queued = jobs.create_run(engine, parse({"name": "waits"}))
    assert report(engine, queued).rollouts == 0


def test_the_command_writes_a_whole_file(opd: Run, engine: Engine, tmp_path: Path) -> None:
    run_id = filled(engine, 3, "plain")
    out = tmp_path / "run.html"
    out.write_text("older")
    code, said, err = opd("report", run_id, "--out", str(out), "--rollouts", "2")
    assert code == 0, err
    size = out.stat().st_size
    assert said == f"{json_count(out)} rollouts, {size / 1000:.0f} kB → {out}\n"
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []


def json_count(out: Path) -> int:
    return len(json.loads(blocks(out.read_text(encoding="utf-8"))["report"])["rollouts"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run-x", "--out", "a.html"], "run-x: no such run or rollout"),
        (["roll-x", "--out", "a.html"], "roll-x: no such run or rollout"),
        (["nonsense", "--out", "a.html"], "nonsense: no such run or rollout"),
        (["run-x", "--out", "a.pdf"], "--out a.pdf: must end in .html or .htm (got .pdf)"),
        (["run-x", "--out", "a"], "--out a: must end in .html or .htm (got no ending)"),
        (["run-x", "--out", "a.html", "--rollouts", "0"], "(got '0')"),
        (["run-x", "--out", "a.html", "--rollouts", "201"], "(got '201')"),
        (["run-x"], "Missing option '--out'"),
    ],
)
def test_bad_input_is_one_line(opd: Run, arguments: list[str], message: str) -> None:
    code, out, err = opd("report", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert message in err


@pytest.mark.parametrize(
    ("out", "message"),
    [("no/x.html", "cannot be written (No such file"), ("folder.html", "is a folder")],
)
def test_a_place_that_cannot_be_written_is_named(
    opd: Run, engine: Engine, tmp_path: Path, out: str, message: str
) -> None:
    run_id = filled(engine, 1, "plain")
    (tmp_path / "folder.html").mkdir()
    before = sorted(tmp_path.iterdir())
    code, _, err = opd("report", run_id, "--out", str(tmp_path / out))
    assert code == 2 and f"--out {tmp_path / out}: {message}" in err
    assert sorted(tmp_path.iterdir()) == before
