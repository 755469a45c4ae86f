"""Two servers on one database: what two people do at once is told to the second, never lost."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from opd.config.run import parse
from storage.queue import jobs
from storage.queue.jobs import Owner
from storage.read.rollouts import read_rollouts
from storage.read.runs import read_run
from tests.support.api_client import Api, stored_run
from tests.support.databases import matrix

OWNER = Owner(4711, 12.5, "boot-2", "two 42 dir")
ROUNDS = 12


class TwoServers:
    """Each with a data directory and connections of its own."""

    def __init__(self, folder: Path) -> None:
        self.engines = [matrix.new_database(folder), matrix.new_database(folder)]
        self.anna, self.ben = (
            Api(engine, folder / name)
            for engine, name in zip(self.engines, ("anna", "ben"), strict=True)
        )
        self.engine = self.engines[0]
        for server in (self.anna, self.ben):
            server.app.openapi()  # threads of one process must not make it at once

    def at_once(self, method: str, path: str, *sent: dict[str, Any]) -> list[Any]:
        """Both send; the answers of anna's server and of ben's."""
        with ThreadPoolExecutor(2) as pool:
            requests = [
                pool.submit(server, method, path, **one)
                for server, one in zip((self.anna, self.ben), sent, strict=True)
            ]
            return [one.result() for one in requests]

    def running(self) -> str:
        run_id = jobs.create_run(self.engine, parse({}))
        assert jobs.claim(self.engine, run_id, f"cuda:{run_id}", OWNER) is not None
        return run_id


@pytest.fixture
def two(tmp_path: Path) -> Any:
    servers = TwoServers(tmp_path)
    yield servers
    for engine in servers.engines:
        engine.dispose()


def statuses(answers: list[Any]) -> list[int]:
    return sorted(answer.status_code for answer in answers)


def test_names_notes_and_tags(two: TwoServers) -> None:
    run_id = jobs.create_run(two.engine, parse({"name": "before"}))
    for version in range(1, ROUNDS + 1):
        seen = {"headers": {"If-Match": f'"{version}"'}}
        answers = two.at_once(
            "PATCH",
            f"/runs/{run_id}",
            {"body": {"notes": f"anna {version}", "add_tags": ["a"]}, **seen},
            {"body": {"name": f"ben {version}", "remove_tags": ["a"]}, **seen},
        )
        assert statuses(answers) == [200, 409], [answer.text for answer in answers]
        [refused] = [answer.json() for answer in answers if answer.status_code == 409]
        stored = read_run(two.engine, run_id)
        assert stored["version"] == version + 1
        assert refused["current"] == {k: stored[k] for k in ("version", "name", "notes", "tags")}


def test_a_note_on_a_token(two: TwoServers) -> None:
    run_id = stored_run(two.engine)
    rollout = read_rollouts(two.engine, run_id)["items"][0]["id"]
    for position in range(3):
        path = f"/rollouts/{rollout}/marks"
        answers = two.at_once(
            "POST",
            path,
            *({"body": {"position": position, "note": name}} for name in ("anna", "ben")),
        )
        assert statuses(answers) == [201, 409]
        [made] = [answer.json() for answer in answers if answer.status_code == 201]
        [refused] = [answer.json() for answer in answers if answer.status_code == 409]
        assert refused["current"]["note"] == made["note"]
        seen = {"headers": {"If-Match": f'"{made["version"]}"'}}
        edits = two.at_once(
            "PATCH",
            f"/marks/{made['id']}",
            *({"body": {"note": f"{name} again"}, **seen} for name in ("anna", "ben")),
        )
        assert statuses(edits) == [200, 409]


def test_two_ways_of_stopping_a_run(two: TwoServers) -> None:
    for _ in range(ROUNDS):
        run_id = two.running()
        answers = two.at_once(
            "POST",
            f"/runs/{run_id}/cancel",
            *({"body": {"mode": mode, "asked": ""}} for mode in ("save", "discard")),
        )
        assert statuses(answers) == [200, 409]
        won = "save" if answers[0].status_code == 200 else "discard"
        assert read_run(two.engine, run_id)["cancel_mode"] == won
        [refused] = [answer.json() for answer in answers if answer.status_code == 409]
        assert "is being stopped already by browser" in refused["error"]
        again = two.ben("POST", f"/runs/{run_id}/cancel", {"mode": won, "asked": ""})
        assert again.status_code == 200  # the same wish is no other
        changed = two.ben("POST", f"/runs/{run_id}/cancel", {"mode": "discard", "asked": won})
        assert changed.status_code == 200
        assert read_run(two.engine, run_id)["cancel_mode"] == "discard"


def test_a_run_that_is_resumed_and_deleted_at_once_is_one_of_them(two: TwoServers) -> None:
    for number in range(ROUNDS):
        run_id = jobs.create_run(two.engine, parse({}))
        jobs.request_cancel(two.engine, run_id, "save")
        first, second = (two.anna, two.ben) if number % 2 else (two.ben, two.anna)
        with ThreadPoolExecutor(2) as pool:
            resumed = pool.submit(first, "POST", f"/runs/{run_id}/resume")
            deleted = pool.submit(second, "DELETE", f"/runs/{run_id}?status=cancelled")
            codes = resumed.result().status_code, deleted.result().status_code
        assert codes in {(200, 409), (404, 200)}
        if codes[0] == 200:
            assert "is queued by now, resumed by browser" in deleted.result().json()["error"]
            assert read_run(two.engine, run_id)["status"] == "queued"
        both = two.at_once("POST", f"/runs/{run_id}/resume", {}, {})
        assert all(answer.status_code in (404, 409) for answer in both)


def test_a_run_that_ends_while_it_is_stopped(two: TwoServers) -> None:
    for _ in range(ROUNDS):
        run_id = two.running()
        with ThreadPoolExecutor(2) as pool:
            stopped = pool.submit(two.ben, "POST", f"/runs/{run_id}/cancel", {"mode": "save"})
            ended = pool.submit(jobs.finish, two.engine, run_id, 1, "finished")
            assert ended.result()
        run = read_run(two.engine, run_id)
        assert run["status"] == "finished"
        assert (stopped.result().status_code == 409) == (run["cancel_mode"] is None)
