"""The webhook at a run's end: once an end, whoever records it, and never in a job's way."""

import json
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psutil
import pytest

from app.worker import process
from app.worker.webhook import notification, sender
from app.worker.webhook.notification import checked_url
from opd.errors import UserError
from storage.data_dir import DataDir
from storage.queue import jobs
from tests.support.network.proxies import small_proxy
from tests.support.studio import Studio

CALM = 1.5  # seconds in which a second message would come


class Receiver:
    """A web server that keeps what it is sent and answers as it is told to."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.codes: list[int] = []  # answers of the next requests; 204 after them
        self.slow = 0.0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append({"path": self.path, **json.loads(body)})
                time.sleep(receiver.slow)
                self.send_response(receiver.codes.pop(0) if receiver.codes else 204)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook/s3cret-path"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def of(self, run_id: str) -> list[dict[str, Any]]:
        return [message for message in self.got if message["run_id"] == run_id]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def log_of(studio: Studio, run_id: str) -> str:
    return (studio.data_dir / "runs" / run_id / "log.txt").read_text()


def test_every_way_to_end_is_told_once(studio: Studio, receiver: Receiver) -> None:
    studio.supervisor(OPD_WEBHOOK=receiver.url)
    finished, failed = studio.queue(device="cuda:0"), studio.queue("nan", device="cuda:1")
    exits = studio.queue("exits", device="cuda:2")
    cancelled = studio.queue("slow", steps=500, device="cuda:3")
    killed = studio.queue("slow", steps=500, device="cuda:4")
    studio.wait_step(cancelled)
    studio.wait_step(killed)
    jobs.request_cancel(studio.engine, cancelled, "save")
    psutil.Process(studio.pid(killed)).kill()
    ends = {
        finished: "finished",
        failed: "failed",
        exits: "failed",
        cancelled: "cancelled",
        killed: "interrupted",
    }
    studio.wait(lambda: all(receiver.of(run_id) for run_id in ends))
    time.sleep(CALM)
    for run_id, status in ends.items():
        [message] = receiver.of(run_id)
        run = studio.run(run_id)
        assert message["status"] == run["status"] == status
        for name in ("name", "step", "steps", "score", "kl", "error_kind", "error_text"):
            assert message[name] == run[name], name
        assert message["seconds"] == pytest.approx(run["seconds"], abs=0.01)
        assert message["attempt"] == 1
        assert "link" not in message  # no server shows this data directory
        assert "s3cret-path" not in log_of(studio, run_id)
    assert receiver.of(failed)[0]["error_kind"] == "nan loss"
    assert receiver.of(killed)[0]["error_kind"] == "killed"
    assert "127.0.0.1 notified of the end" in log_of(studio, finished)


def test_a_resumed_run_is_told_of_again_and_the_link_names_its_page(
    studio: Studio, receiver: Receiver
) -> None:
    note = {"port": 1, "pid": 1, "address": "http://127.0.0.1:1/"}
    (studio.data_dir / "server.json").write_text(json.dumps(note))
    command = studio.start("cli", "train", "demo", "--set", "name=bug", OPD_WEBHOOK=receiver.url)
    assert command.wait(300) == 1
    studio.wait(lambda: receiver.got)
    [first] = receiver.got
    assert (first["status"], first["attempt"]) == ("failed", 1)
    assert first["link"] == f"http://127.0.0.1:1/run?id={first['run_id']}"
    again = studio.start("cli", "resume", first["run_id"], OPD_WEBHOOK=receiver.url)
    assert again.wait(300) == 1
    studio.wait(lambda: len(receiver.got) == 2)
    time.sleep(CALM)
    assert [message["attempt"] for message in receiver.got] == [1, 2]


def test_a_slow_or_dead_receiver_delays_nothing(studio: Studio, receiver: Receiver) -> None:
    receiver.slow = 30
    slow = studio.supervisor(OPD_WEBHOOK=receiver.url)
    first, second = studio.queue("slow"), studio.queue()
    studio.wait(lambda: studio.status(first) == "running")
    pid = studio.pid(first)
    studio.wait_status(first, "finished")
    studio.wait(lambda: process.owner_of(pid) is None)
    assert "no answer" not in log_of(studio, first), "the job waited for the receiver"
    studio.wait_status(second, "finished")
    studio.wait(lambda: "no answer within 5 s" in log_of(studio, second))
    assert len(receiver.of(second)) == 1, "an unanswered message may have been taken: not again"
    slow.kill()
    slow.communicate()
    receiver.close()
    studio.supervisor(OPD_WEBHOOK=receiver.url)
    third = studio.queue()
    studio.wait_status(third, "finished")
    studio.wait(lambda: "no connection" in log_of(studio, third))
    assert studio.run(third)["error_text"] == ""


def test_answers_of_the_receiver(receiver: Receiver) -> None:
    message = json.dumps({"run_id": "run-a", "attempt": 1}).encode()
    for codes, requests, reason in (
        ([200], 1, ""),
        ([503, 204], 2, ""),
        ([500, 502], 2, "answered 502"),
        ([404], 1, "answered 404"),
        ([302], 1, "answered 302: redirects are not followed"),
    ):
        receiver.got.clear()
        receiver.codes = list(codes)
        assert sender.send(receiver.url, message, pause=0) == reason
        assert [got["path"] for got in receiver.got] == ["/hook/s3cret-path"] * requests


def test_a_proxy_is_named_and_never_between_us_and_this_machine(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = json.dumps({"run_id": "run-a", "attempt": 1}).encode()
    monkeypatch.setattr(sender, "PAUSE", 0)
    monkeypatch.setenv("HTTP_PROXY", "http://me:pw@127.0.0.1:9")
    assert sender._result(receiver.url, message) == ""
    named = ", from HTTP_PROXY)"
    reason = sender._result("http://hooks.example/x", message)
    assert reason == f"no connection (ConnectError) (through the proxy http://127.0.0.1:9{named}"
    with small_proxy(receiver.url, refuses="407 Proxy Authentication Required") as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://me:pw@{proxy.address}")
        reason = sender._result("http://hooks.example/x", message)
    assert reason == f"answered 407 (through the proxy http://{proxy.address}{named}"
    monkeypatch.setenv("HTTP_PROXY", "socks4://127.0.0.1:9")
    reason = sender._result("http://hooks.example/x", message)
    assert reason.startswith("HTTP_PROXY: socks4:// proxies are not supported")
    with pytest.raises(UserError, match="HTTP_PROXY"):
        checked_url("http://hooks.example/x")


REFUSED = (
    *("ftp://host/x", "file:///etc/passwd", "javascript:1", "host/x", "http://", "http://a b/"),
    *("http://h:99999/", "https://" + "a" * 2_000, "http://h/\n"),
)


@pytest.mark.parametrize("url", REFUSED)
def test_other_addresses_are_refused(
    url: str, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="webhook"):
        checked_url(url)
    monkeypatch.setenv(notification.VARIABLE, url)
    notification.notify(
        studio.engine, DataDir(studio.data_dir), "run-x"
    )  # nothing is started, nothing raised


def test_a_command_refuses_them_before_it_does_anything(studio: Studio) -> None:
    for part in (["serve", "--webhook", "ftp://host/x"], ["train", "demo"]):
        command = studio.start("cli", *part, OPD_WEBHOOK="" if "--webhook" in part else "ftp://h/")
        _, err = command.communicate(timeout=300)
        assert command.returncode == 2
        assert "webhook: must begin with http:// or https://" in err
        assert "Traceback" not in err


def test_the_address_is_no_part_of_a_run(studio: Studio, receiver: Receiver) -> None:
    studio.supervisor(OPD_WEBHOOK=receiver.url)
    run_id = studio.queue()
    studio.wait(lambda: receiver.of(run_id))
    kept = b"".join(p.read_bytes() for p in studio.data_dir.rglob("*") if p.is_file())
    assert b"s3cret-path" not in kept
    assert os.environ.get(notification.VARIABLE) is None
