"""Whose name a run has that was started by REST, by Gradio's client, and by an assistant."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
from gradio_client import Client
from mcp import ClientSession
from mcp.client.streamable_http import create_mcp_http_client, streamable_http_client
from mcp.types import TextContent

from app.programs.mcp_server import ADDRESS
from storage.read.runs import read_run
from tests.support.browser_server import TOKEN, loopback_server
from tests.support.databases.matrix import new_database

ANNA, BEN = "anna-" + "a" * 20, "ben-" + "b" * 20
DEMO = {"recipe": "demo"}


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def by_assistant(address: str, token: str, tool: str, **arguments: Any) -> str:
    async def called() -> str:
        async with (
            create_mcp_http_client(headers=bearer(token)) as http,
            streamable_http_client(f"{address.rstrip('/')}{ADDRESS}/", http_client=http) as streams,
            ClientSession(*streams[:2]) as session,
        ):
            await session.initialize()
            [content] = (await session.call_tool(tool, arguments)).content
            assert isinstance(content, TextContent)
            return str(json.loads(content.text)["id"])

    return asyncio.run(called())


def test_a_run_has_the_name_of_the_token_whichever_way_it_came(tmp_path: Path) -> None:
    engine = new_database(tmp_path)
    named = {"anna": ANNA, "ben": BEN}
    with loopback_server(engine, tmp_path, mcp=True, named_tokens=named) as address:
        rest = f"{address}api/v1"
        for token, name in ((ANNA, "anna"), (TOKEN, "browser")):
            client = Client(address, headers=bearer(token), verbose=False, analytics_enabled=False)
            run_ids = [
                httpx.post(f"{rest}/runs", headers=bearer(token), json=DEMO).json()["id"],
                client.predict(**DEMO, api_name="/start_run")["id"],
                by_assistant(address, token, "start_run", **DEMO),
            ]
            assert [read_run(engine, run_id)["started_by"] for run_id in run_ids] == [name] * 3
            client.predict(run=run_ids[0], api_name="/stop_run")
            assert read_run(engine, run_ids[0])["cancel_by"] == name
            by_assistant(address, BEN, "resume_run", run=run_ids[0])
            resumed = read_run(engine, run_ids[0])
            assert (resumed["started_by"], resumed["resumed_by"]) == (name, "ben")
            assert (resumed["cancel_by"], resumed["status"]) == ("", "queued")
            health = httpx.get(f"{rest}/health", headers=bearer(token)).json()
            assert (health["access"], health["user"]) == ("full", "anna" if token == ANNA else None)
            client.close()
    engine.dispose()
