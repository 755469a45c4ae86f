"""The named endpoints as tools of an MCP server, so that assistants launch runs and read tokens.

Gradio's own MCP server describes the tools and speaks the protocol. By itself it would call an
endpoint over HTTP at the address that the request names, and write answers as Python prints them;
here the endpoint is called within the process, and its answer is JSON.
"""

import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import gradio as gr
import orjson
from fastapi import FastAPI
from gradio.mcp import GradioMCPServer
from mcp.server import Server
from mcp.types import TextContent, Tool, ToolAnnotations
from starlette._utils import get_route_path
from starlette.requests import Request
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from app.api.http.replies import Json
from app.programs.calls import call_by

ADDRESS = "/gradio_api/mcp"
CHANGING = ("start_run", "stop_run", "resume_run", "what_if", "doctor")
INSTRUCTIONS = """\
OPD Studio trains a student language model by on-policy distillation: the student writes, a teacher
judges every token, and both log-probabilities of each token are stored. Log-probabilities,
entropies and KL divergences are in nats.

`doctor` checks a configuration, `start_run` queues it, `get_run` with `wait` waits for its end,
`run_metrics` shows its curves, `worst_tokens` says at which tokens student and teacher disagree
most and what the teacher wanted, `list_rollouts` lists the completions, `rollout_tokens` gives
every token of one, and `what_if` continues it from another token."""


class EndpointTools(GradioMCPServer):
    """An ASGI application that answers MCP's requests by POST ("streamable HTTP", no sessions)."""

    def create_mcp_server(self) -> Server[object, object]:
        server: Server[object, object] = Server(str(self.blocks.title), instructions=INSTRUCTIONS)
        server.list_tools()(self._tools)  # type: ignore[no-untyped-call]
        # the routes check the arguments, and name the field that is wrong
        server.call_tool(validate_input=False)(self._call)
        return server

    async def _tools(self) -> list[Tool]:
        return [self._tool(name) for name in self.tool_to_endpoint]

    def _tool(self, name: str) -> Tool:
        text, parameters, returns = gr.utils.get_function_description(self._function(name))
        schema, _ = self.get_input_schema(name, parameters)
        for parameter in schema["properties"].values():
            parameter.pop("additional_description", None)  # it says the description once more
        hints = ToolAnnotations(
            readOnlyHint=name not in CHANGING, destructiveHint=name == "stop_run"
        )
        return Tool(
            name=name,
            description=f"{text} Returns {' '.join(returns)}",
            inputSchema=schema,
            annotations=hints,
        )

    def _function(self, name: str) -> Callable[..., Awaitable[Any]]:
        """Raises ValueError."""
        if name not in self.tool_to_endpoint:
            raise ValueError(
                f"there is no tool of this name; there are {', '.join(self.tool_to_endpoint)}"
            )
        block = self.get_block_fn_from_endpoint_name(self.tool_to_endpoint[name])
        assert block is not None and block.fn is not None
        return block.fn

    async def _call(self, name: str, arguments: dict[str, Any]) -> list[TextContent]:
        """The endpoint's answer; what is raised, the client is told as the tool's error."""
        function = self._function(name)
        try:
            inspect.signature(function).bind(**arguments)
        except TypeError as error:
            raise ValueError(f"{name}: {error}") from None
        try:
            with call_by(self.mcp_server.request_context.request):
                answer = await function(**arguments)
        except gr.Error as error:
            raise ValueError(error.message) from None
        text = answer if isinstance(answer, str) else orjson.dumps(answer).decode()
        return [TextContent(type="text", text=text)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            reply = Json({"error": f"MCP clients call {ADDRESS}/ by POST"}, 405)
            reply.headers["allow"] = "POST"
            await reply(scope, receive, send)
        elif get_route_path(scope) in ("/", ADDRESS):
            await self.manager.handle_request(scope, receive, send)
        else:
            await Json({"error": "there is nothing at this address"}, 404)(scope, receive, send)

    async def described(self, request: Request) -> Any:
        """The tools as the page that lists the endpoints shows them."""
        return await self.get_complete_schema(request)


def add_tools(site: FastAPI, pages: gr.Blocks) -> None:
    """Serves the endpoints of the pages as tools, with the server, under ADDRESS."""
    tools = EndpointTools(pages)
    site.router.routes += [
        Route(f"{ADDRESS}/schema", tools.described),
        Route(ADDRESS, tools),
        Mount(ADDRESS, tools),
    ]
    before = site.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        async with before(app) as state, tools.manager.run():
            yield state

    site.router.lifespan_context = lifespan
