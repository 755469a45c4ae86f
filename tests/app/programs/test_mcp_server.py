"""The endpoints as an MCP server, asked by a real MCP client over the loopback."""

import asyncio
import json
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp import ClientSession
from mcp.client.streamable_http import create_mcp_http_client, streamable_http_client
from mcp.types import TextContent
from sqlalchemy import Engine, select

from app.programs.mcp_server import ADDRESS, CHANGING
from app.server import ServerOptions, build
from storage.data_dir import DataDir
from storage.engine import read
from storage.read.rollouts import read_rollouts
from storage.read.runs import read_runs
from storage.schema import metadata
from tests.app.programs.test_endpoints import NAMES
from tests.support.api_client import Api, stored_run, train
from tests.support.browser_server import TOKEN, VIEW_TOKEN, loopback_server
from tests.support.databases.matrix import new_database
from tests.support.network.hostile_values import HOSTILE, fault_of, hostile_calls

FULL = os.environ.get("OPD_FULL") == "1"
BEARER = {"authorization": f"Bearer {TOKEN}"}


class Assistant:
    """An MCP client with the token, one session per test."""

    def __init__(self, address: str, engine: Engine, folder: Path) -> None:
        self.address, self.engine, self.folder = address, engine, folder
        self.run_id = stored_run(engine)
        self.rollout_id: str = read_rollouts(engine, self.run_id)["items"][0]["id"]

    def does(self, work: Callable[[ClientSession], Awaitable[Any]]) -> Any:
        async def connected() -> Any:
            async with (
                create_mcp_http_client(headers=BEARER) as http,
                streamable_http_client(self.address, http_client=http) as (read, write, _),
                ClientSession(read, write) as session,
            ):
                await session.initialize()
                return await work(session)

        return asyncio.run(connected())


async def answer(session: ClientSession, tool: str, **arguments: Any) -> Any:
    """What the tool answers, read from its JSON."""
    result = await session.call_tool(tool, arguments)
    [content] = result.content
    assert isinstance(content, TextContent) and not result.isError, content
    return json.loads(content.text)


async def refused(session: ClientSession, tool: str, arguments: dict[str, Any]) -> str | None:
    """The text of a refusal; None where the tool answers."""
    result = await session.call_tool(tool, arguments)
    [content] = result.content
    assert isinstance(content, TextContent)
    return content.text if result.isError else None


@pytest.fixture(scope="module")
def assistant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Assistant]:
    folder = tmp_path_factory.mktemp("mcp")
    engine = new_database(folder)
    with loopback_server(engine, folder, mcp=True) as address:
        yield Assistant(f"{address.rstrip('/')}{ADDRESS}/", engine, folder)
    engine.dispose()


def contents(engine: Engine) -> list[Any]:
    with read(engine) as connection:
        return [connection.execute(select(table)).all() for table in metadata.sorted_tables]


def test_an_assistant_launches_waits_and_says_which_token_went_wrong(assistant: Assistant) -> None:
    async def work(session: ClientSession) -> None:
        run_id = (await answer(session, "start_run", recipe="demo", changes=["steps=2"]))["id"]
        assert (await answer(session, "get_run", run=run_id))["status"] == "queued"
        waiting = asyncio.create_task(answer(session, "get_run", run=run_id, wait=60))
        worker = threading.Thread(target=train, args=(assistant.engine, run_id))
        worker.start()
        ended = await waiting
        assert (ended["status"], ended["step"]) == ("finished", 2)
        worker.join()
        worst = (await answer(session, "worst_tokens", run=run_id, limit=1))["items"][0]
        assert (worst["text"], worst["wanted"], worst["position"]) == ("<end>", " but", 5)
        record = await answer(session, "rollout_tokens", rollout=worst["rollout_id"])
        assert record["completion_tokens"][worst["position"]] == worst["text"]

    assistant.does(work)


def test_the_tools_say_what_they_take_and_give(assistant: Assistant) -> None:
    async def work(session: ClientSession) -> None:
        tools = {tool.name: tool for tool in (await session.list_tools()).tools}
        assert tools.keys() == NAMES
        for name, tool in tools.items():
            assert tool.description and " Returns " in tool.description, name
            assert tool.annotations and tool.annotations.readOnlyHint == (name not in CHANGING)
            for parameter, schema in tool.inputSchema["properties"].items():
                assert schema["description"], (name, parameter)
                assert schema.keys() & {"type", "enum", "oneOf", "anyOf"}, (name, parameter)
        assert tools["get_run"].inputSchema["required"] == ["run"]
        assert "nats" in (tools["worst_tokens"].description or "")

    assistant.does(work)


def test_answers_are_those_of_rest(assistant: Assistant) -> None:
    api = Api(assistant.engine, assistant.folder)

    async def work(session: ClientSession) -> None:
        run_id = assistant.run_id
        worst = await answer(session, "worst_tokens", run=run_id, step=2, limit=3)
        tokens = await answer(session, "rollout_tokens", rollout=assistant.rollout_id)
        page = (await session.call_tool("report", {"name": run_id, "rollouts": 1})).content[0]
        assert isinstance(page, TextContent) and 'data-block="report"' in page.text
        return worst, tokens

    worst, tokens = assistant.does(work)
    assert worst == api.get(f"/runs/{assistant.run_id}/hot-tokens", step=2, limit=3)
    assert tokens == api.get(f"/rollouts/{assistant.rollout_id}/record")


CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
START = CALL | {"params": {"name": "start_run", "arguments": {"recipe": "demo"}}}
WIRE = {"accept": "application/json, text/event-stream", "content-type": "application/json"}


@pytest.mark.parametrize(
    ("headers", "status", "said"),
    [
        ({}, 403, "needs `Authorization: Bearer TOKEN`"),
        ({"origin": "HOME"}, 401, "a token is needed"),
        ({"authorization": "Bearer wrong"}, 401, "the token is wrong"),
        ({"authorization": f"Bearer {VIEW_TOKEN}"}, 403, "view-only"),
        ({"cookie": f"opd_token_PORT={TOKEN}"}, 403, "Authorization"),
        (BEARER | {"host": "evil.example"}, 403, "not one of this server's"),
        (BEARER | {"origin": "https://evil.example"}, 403, "another site"),
        (BEARER | {"sec-fetch-site": "cross-site"}, 403, "another site"),
    ],
)
def test_who_may_not_is_refused_and_nothing_changes(
    assistant: Assistant, headers: dict[str, str], status: int, said: str
) -> None:
    home = assistant.address.partition("/gradio_api")[0]
    port = home.rpartition(":")[2]
    sent = {k: v.replace("HOME", home).replace("PORT", port) for k, v in headers.items()}
    before = contents(assistant.engine)
    for path in ("", "/", "/http", "/messages/?session_id=00", "/sse"):
        reply = httpx.post(f"{home}{ADDRESS}{path}", headers=WIRE | sent, json=START)
        assert reply.status_code == status and said in reply.json()["error"], (path, reply.text)
    assert contents(assistant.engine) == before
    granted = httpx.post(f"{home}{ADDRESS}", headers=WIRE | BEARER, json=START)
    assert granted.status_code == 200 and "run-" in granted.text
    assert contents(assistant.engine) != before


def test_there_is_one_way_in(assistant: Assistant) -> None:
    """Clients of the older transport, and browsers, are told so; nothing stays open for them."""
    for method, path in (("GET", ""), ("GET", "/sse"), ("DELETE", "/"), ("GET", "/messages/")):
        address = assistant.address.rstrip("/") + path
        reply = httpx.request(method, address, headers=BEARER | {"accept": "text/event-stream"})
        assert reply.status_code == 405 and "by POST" in reply.json()["error"], (method, path)
    for path in ("/sse", "/messages/?session_id=00"):
        reply = httpx.post(assistant.address.rstrip("/") + path, headers=WIRE | BEARER, json=START)
        assert reply.status_code == 404
    shown = httpx.get(assistant.address + "schema").json()
    assert {tool["name"] for tool in shown} == NAMES


def test_a_body_over_the_limit_is_refused(assistant: Assistant) -> None:
    reply = httpx.post(
        assistant.address, headers=WIRE | BEARER, content=b" " * 2_000_001, timeout=30
    )
    assert reply.status_code == 413 and "limit" in reply.json()["error"]


def test_hostile_arguments_are_refused_or_mean_nothing(assistant: Assistant) -> None:
    """OPD_FULL=1 sends them all."""
    before = contents(assistant.engine)

    async def work(session: ClientSession) -> list[tuple[str, str, Any, str]]:
        tools = (await session.list_tools()).tools
        takes = {tool.name: [*tool.inputSchema["properties"]] for tool in tools}
        calls = [*hostile_calls(takes, assistant.run_id, assistant.rollout_id)]
        assert len(calls) == sum(map(len, takes.values())) * len(HOSTILE) > 1200
        texts = []
        for name, parameter, arguments in calls[:: 1 if FULL else 11]:
            text = await refused(session, name, arguments)
            if text is not None:
                texts.append((name, parameter, arguments[parameter], text))
        for name in takes:
            await refused(session, name, {"no_such_parameter": 1})
        return texts

    texts = assistant.does(work)
    assert len(texts) >= (800 if FULL else 70)
    faults = [
        (name, parameter, repr(value)[:60], fault, text[:200])
        for name, parameter, value, text in texts
        if (fault := fault_of(parameter, value, text)) or TOKEN in text
    ]
    assert not faults, faults
    assert contents(assistant.engine) == before


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"[]",
        b"\xff\xfe",
        b"{" * 5000,
        b'{"jsonrpc": "2.0"}',
        b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call"}',
        b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": 7}}',
        b'{"jsonrpc": "2.0", "id": 1, "method": "resources/read", "params": {"uri": "file:///etc"}}',
        b'{"jsonrpc": "2.0", "id": 1, "method": "__class__", "params": {}}',
        b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "start_run", '
        b'"arguments": {"recipe": "demo", "name": "\\ud800"}}}',
    ],
)
def test_hostile_messages_change_nothing(assistant: Assistant, message: bytes) -> None:
    before = contents(assistant.engine)
    reply = httpx.post(assistant.address, headers=WIRE | BEARER, content=message, timeout=30)
    assert reply.status_code in (200, 400) and "Traceback" not in reply.text
    assert "error" in reply.text or '"isError":true' in reply.text
    assert contents(assistant.engine) == before


def test_behind_a_proxy_the_tools_are_below_its_prefix(tmp_path: Path) -> None:
    engine = new_database(tmp_path)
    options = ServerOptions(DataDir(tmp_path), token=TOKEN, root_path="/studio", mcp=True)
    site = build(engine, options)

    async def status(path: str) -> int:
        transport = httpx.ASGITransport(site)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return (await client.get(path)).status_code

    try:
        for prefix in ("/studio", ""):  # a proxy may strip it or not
            assert asyncio.run(status(f"{prefix}{ADDRESS}/")) == 405
            assert asyncio.run(status(f"{prefix}{ADDRESS}/schema")) == 200
    finally:
        engine.dispose()


def test_without_the_option_there_are_none(tmp_path: Path) -> None:
    engine = new_database(tmp_path)
    site = build(engine, ServerOptions(DataDir(tmp_path), token=TOKEN))

    async def reply(method: str, path: str) -> httpx.Response:
        transport = httpx.ASGITransport(site)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, headers=BEARER | WIRE, json=START)

    try:
        for method, path in (("POST", ""), ("POST", "/"), ("GET", "/schema"), ("GET", "/sse")):
            assert asyncio.run(reply(method, ADDRESS + path)).status_code == 404
        assert read_runs(engine)["total"] == 0
    finally:
        engine.dispose()
