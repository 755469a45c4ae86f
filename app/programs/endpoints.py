"""Named Gradio endpoints, for gradio_client and, as tools of an MCP server, for assistants.

Each asks the REST routes within the process, so that both take the same input, check it alike and
refuse it in the same words. They are called by POST, which the security layer opens to the full
token only. Their docstrings are what programs and assistants are told.
"""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, Literal

import gradio as gr
import httpx
from gradio.components.api_component import Api
from gradio.events import api
from starlette.types import ASGIApp

from app.programs.arguments import (
    config_body,
    part,
    refused,
    seconds_to_wait,
    sendable,
    text_of,
)
from app.programs.calls import as_caller
from opd.network import in_process_client
from opd.types import Kind, RunStatus

AT_ONCE = 20  # calls of one endpoint; a call that waits for an answer takes no thread
LOOK_EVERY = 0.2  # seconds
UNFINISHED = ("queued", "running")
Rows = dict[str, Any]


class Endpoints:
    """The endpoints of a server; `site` has the REST routes."""

    def __init__(self, site: ASGIApp) -> None:
        self._site = site

    def add(self) -> None:
        """Names every endpoint in the Gradio application that is being built."""
        for function in (
            *(self.list_runs, self.get_run, self.start_run, self.stop_run, self.resume_run),
            *(self.run_metrics, self.list_rollouts, self.rollout_tokens, self.worst_tokens),
            *(self.what_if, self.doctor, self.answer, self.report),
        ):
            api(function, api_name=function.__name__, concurrency_limit=AT_ONCE)
            _describe(function)

    async def list_runs(
        self,
        search: str = "",
        status: Literal["", RunStatus] = "",
        tag: str = "",
        limit: int = 100,
        offset: int = 0,
    ) -> Rows:
        """A page of runs, newest first: to find a run's id.

        Parameters:
            search: text in id, name, notes, recipe or models
            status: only runs of this status
            tag: only runs with this tag
            limit: number of runs, 1 to 1000
            offset: number of runs to skip
        Returns:
            {"items": [run, …], "total": n}
        """
        return await self._get(
            "/runs", search=search, status=status, tag=tag, limit=limit, offset=offset
        )

    async def get_run(self, run: str, wait: float = 0.0) -> Rows:
        """A run: status, step, last KL and score, error, configuration, checkpoints.

        Parameters:
            run: id of a run
            wait: seconds to wait for its end, 0 to 3600; then the run as it is
        Returns:
            the run: `status` is "queued", "running", "finished", "failed", "cancelled" or
            "interrupted"; `error_text` and `hint` say why it failed; `kl` is in nats per token
        """
        path = f"/runs/{part('run', run)}"
        return await self._looked(
            path, seconds_to_wait(wait), lambda state: state["status"] not in UNFINISHED
        )

    async def start_run(
        self,
        recipe: str | None = None,
        yaml: str | None = None,
        changes: list[str] = [],  # noqa: B006 - never changed; shown as the default
        name: str | None = None,
        tags: list[str] = [],  # noqa: B006
        request_key: str | None = None,
    ) -> Rows:
        """Queue a run of a recipe or of a configuration in YAML; `get_run` waits for its end.

        Parameters:
            recipe: name of a recipe; "demo" trains the bundled student in about a minute
            yaml: text of a configuration, instead of a recipe
            changes: "field=value" for each setting to change, such as "steps=20"
            name: name of the run
            tags: tags of the run
            request_key: any text of yours; the same key always gives the same run
        Returns:
            {"id": id of the run}
        """
        body = config_body(recipe, yaml, changes)
        body |= {"name": name, "tags": tags, "request_key": request_key}
        return await self._ask("POST", "/runs", body)

    async def stop_run(self, run: str, mode: Literal["save", "discard"] = "save") -> Rows:
        """Stop a run that is queued or running.

        Parameters:
            run: id of a run
            mode: "save" keeps a checkpoint to resume from, "discard" does not
        Returns:
            {"id": id of the run, "status": its status}
        """
        return await self._ask("POST", f"/runs/{part('run', run)}/cancel", {"mode": mode})

    async def resume_run(
        self,
        run: str,
        changes: list[str] = [],  # noqa: B006
        accept_changes: bool = False,
    ) -> Rows:
        """Queue a stopped run again, from its last checkpoint.

        Parameters:
            run: id of a run
            changes: "field=value" for each setting that may change within a run, such as "steps=40"
            accept_changes: resume even if models or data have changed since
        Returns:
            {"id": id of the run, "status": its status}
        """
        body = {"set": changes, "accept_changes": accept_changes}
        return await self._ask("POST", f"/runs/{part('run', run)}/resume", body)

    async def run_metrics(self, run: str, after: int = -1) -> Rows:
        """The metrics of a run's steps (losses and KL in nats per token), and its evaluations.

        Parameters:
            run: id of a run
            after: only later steps than this one
        Returns:
            {"columns": {metric: [a value per step]}, "last": step, "evaluations": [score, …]}
        """
        path = f"/runs/{part('run', run)}"
        steps = await self._get(f"{path}/steps", after=after)
        evaluations = await self._get(f"{path}/evaluations")
        return {**steps, "evaluations": evaluations["items"]}

    async def list_rollouts(
        self,
        run: str,
        sort: str = "-kl_sum",
        step: int | None = None,
        kind: Kind | None = None,
        correct: bool | None = None,
        text: str = "",
        limit: int = 50,
        offset: int = 0,
    ) -> Rows:
        """A page of a run's rollouts (prompt, completion, verdict) with the sums over their tokens.

        Parameters:
            run: id of a run
            sort: column to sort by, such as "-kl_sum" or "step"; "-" for the largest first
            step: only rollouts of this step
            kind: only rollouts of training, evaluation, probes or what-if continuations
            correct: only right (true) or wrong (false) ones
            text: text in prompt or completion
            limit: number of rollouts, 1 to 1000
            offset: number of rollouts to skip
        Returns:
            {"items": [rollout, …], "total": n}
        """
        query = {"sort": sort, "step": step, "kind": kind, "correct": correct, "text": text}
        return await self._get(
            f"/runs/{part('run', run)}/rollouts", limit=limit, offset=offset, **query
        )

    async def rollout_tokens(self, rollout: str) -> Rows:
        """One rollout with every token: ids, texts, log-probabilities (nats), alternatives.

        Several kilobytes per ten tokens; `worst_tokens` names the few that matter most.

        Parameters:
            rollout: id of a rollout
        Returns:
            the record, in the form that `opd export` writes and `opd import` reads
        """
        return await self._get(f"/rollouts/{part('rollout', rollout)}/record")

    async def worst_tokens(
        self,
        run: str,
        step: int | None = None,
        kind: Kind | None = None,
        limit: int = 50,
        offset: int = 0,
    ) -> Rows:
        """Which tokens went wrong: those at which student and teacher disagree most, worst first.

        Parameters:
            run: id of a run
            step: only rollouts of this step
            kind: only rollouts of this kind
            limit: number of tokens, 1 to 1000
            offset: number of tokens to skip
        Returns:
            {"items": [token, …], "total": n}: each with the `text` that the student wrote, what
            stands `before` and `after` it, what the teacher `wanted` there, log-probabilities and
            `heat` (the disagreement) in nats, and `rollout_id` and `position`
        """
        query = {"step": step, "kind": kind, "limit": limit, "offset": offset}
        return await self._get(f"/runs/{part('run', run)}/hot-tokens", **query)

    async def what_if(
        self,
        rollout: str,
        position: int,
        text: str | None = None,
        token: int | None = None,
        checkpoint: Literal["newest", "start"] | int = "newest",
        max_new_tokens: int = 128,
        wait: float = 300.0,
    ) -> Rows:
        """Continue a rollout from another choice at one token, by student and teacher.

        Parameters:
            rollout: id of a rollout
            position: index of the completion token to exchange, from 0
            text: what to write there instead; or:
            token: id of a token to write there instead
            checkpoint: step of the run's checkpoint that continues, "newest" or "start"
            max_new_tokens: length of the continuation, 1 to 2048
            wait: seconds to wait for the answer, 0 to 3600
        Returns:
            {"id", "state", "answer": {…}}; `answer` asks for it later
        """
        choice = {"rollout": rollout, "position": position, "text": text, "token": token}
        body = choice | {"checkpoint": checkpoint, "max_new_tokens": max_new_tokens}
        return await self._answered("/what-if", body, "/questions", wait)

    async def doctor(
        self,
        recipe: str | None = None,
        yaml: str | None = None,
        changes: list[str] = [],  # noqa: B006
        models: bool = True,
        wait: float = 300.0,
    ) -> Rows:
        """Check a configuration before it runs: models, tokenizers, data, memory, time.

        Parameters:
            recipe: name of a recipe
            yaml: text of a configuration, instead of a recipe
            changes: "field=value" for each setting to change
            models: false loads no weights and uses no network
            wait: seconds to wait for the answer, 0 to 3600
        Returns:
            {"id", "state", "ok", "findings": […], "memory"}
        """
        body = config_body(recipe, yaml, changes) | {"models": models}
        return await self._answered("/doctor", body, "/doctor", wait)

    async def answer(self, id: str) -> Rows:
        """The answer of a what-if or a doctor's check that took longer than its `wait`.

        Parameters:
            id: id of the request
        Returns:
            {"id", "state", "answer": {…}}
        """
        return await self._get(f"/questions/{part('id', id)}")

    async def report(self, name: str, rollouts: int = 20) -> str:
        """A run with its worst rollouts, or one rollout, as a file that opens without a server.

        Hundreds of kilobytes: meant to be saved, not read.

        Parameters:
            name: id of a run or a rollout
            rollouts: number of a run's rollouts in it, 1 to 200
        Returns:
            the text of an HTML file
        """
        kind = "rollouts" if str(name).startswith("roll-") else "runs"
        query = {} if kind == "rollouts" else {"rollouts": sendable("rollouts", rollouts)}
        reply = await self._send("GET", f"/{kind}/{part('name', name)}/report", query, None)
        return reply.text

    async def _answered(self, path: str, body: Rows, answers: str, wait: float) -> Rows:
        """Asks the model process, and looks for its answer until it has ended or `wait` is over."""
        seconds = seconds_to_wait(wait)
        request = await self._ask("POST", path, body)
        address = f"{answers}/{part('id', request['id'])}"
        state = await self._looked(address, seconds, lambda s: s["state"] in ("done", "failed"))
        if state["state"] == "failed":
            raise refused(state["error_text"])
        return state

    async def _looked(self, path: str, wait: float, ended: Callable[[Rows], bool]) -> Rows:
        """What is at `path`, as soon as that has ended or `wait` seconds are over."""
        until = time.monotonic() + wait
        while True:
            state = await self._get(path)
            if ended(state) or time.monotonic() >= until:
                return state
            await asyncio.sleep(LOOK_EVERY)

    async def _get(self, path: str, **query: Any) -> Rows:
        given = {k: sendable(k, value) for k, value in query.items() if value not in ("", None)}
        reply = await self._send("GET", path, given, None)
        rows: Rows = _without_files(reply.json())
        return rows

    async def _ask(self, method: str, path: str, body: Rows) -> Rows:
        reply: Rows = (await self._send(method, path, {}, body)).json()
        return reply

    async def _send(self, method: str, path: str, query: Rows, body: Rows | None) -> httpx.Response:
        """The REST route's answer. Raises gr.Error with its text where it refuses.

        What JSON cannot say (half a character, an infinite number) is left for the route to judge.
        """
        content = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"content-type": "application/json"}
        async with in_process_client(as_caller(self._site)) as client:
            reply = await client.request(
                *(method, f"/api/v1{path}"), params=query, content=content, headers=headers
            )
        if reply.status_code >= 400:
            raise refused(text_of(reply.json()))
        return reply


def _describe(function: Callable[..., Any]) -> None:
    """Tells what the parameters of the endpoint named last are; Gradio itself leaves that out."""
    blocks = gr.context.Context.root_block
    assert blocks is not None
    _, texts, _ = gr.utils.get_function_description(function)
    inputs = blocks.fns[max(blocks.fns)].inputs
    for (name, text), component in zip(texts.items(), inputs, strict=True):
        assert isinstance(component, Api)
        component.label = name
        component._api_info["additional_description"] = text


def _without_files(answer: Any) -> Any:
    """Under the name `path`, clients of Gradio take a text for a file that they are to fetch."""
    if isinstance(answer, dict):
        return {"folder" if k == "path" else k: _without_files(v) for k, v in answer.items()}
    if isinstance(answer, list) and answer and isinstance(answer[0], dict | list):
        return [_without_files(item) for item in answer]
    return answer
