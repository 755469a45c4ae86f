"""A client of the REST routes, and a stored run for them to show."""

import asyncio
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from httpx import ASGITransport, AsyncClient, Response
from sqlalchemy import Engine

from app.server import ServerOptions, rest_app
from opd.config.run import parse
from opd.types import EvaluationEvent, ModelsEvent, Rollout, Score, StepEvent, TokenRecord, TopK
from storage.data_dir import DataDir
from storage.queue import jobs
from storage.write.records import RunWriter

WORDS = {0: (b"<end>", True), 1: (b" but", False), 2: (b"\xc3", False), 3: (b"\xa9", False)}
TOKENS = 6


class Api:
    """A client of the routes; errors inside the application come out here, never as a 500."""

    def __init__(self, engine: Engine, data_dir: Path) -> None:
        self.app = rest_app(engine, ServerOptions(data_dir=DataDir(data_dir), token="t"))

    def __call__(self, method: str, path: str, body: Any = None, **more: Any) -> Response:
        async def send() -> Response:
            transport = ASGITransport(self.app)
            async with AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.request(method, f"/api/v1{path}", json=body, **more)

        return asyncio.run(send())

    def get(self, path: str, **params: Any) -> Any:
        response = self("GET", path, params=params)
        assert response.status_code == 200, response.text
        return response.json()


def vocabulary(ids: Collection[int]) -> dict[int, tuple[bytes, bool]]:
    return {i: WORDS[i] for i in ids}


def rollout(step: int, sample: int) -> Rollout:
    values = np.linspace(0.1, 0.9, TOKENS, dtype=np.float32) * (sample + 1)
    ids = np.array([1, 2, 3, 1, 1, 0])
    top = TopK(
        ids=np.tile([1, 3], (TOKENS, 1)),
        logprobs=np.tile(np.array([-0.5, -1.5], np.float32), (TOKENS, 1)),
        other_logprobs=np.tile(np.array([-0.25, -2.5], np.float32), (TOKENS, 1)),
        tail_mass=np.full(TOKENS, 0.125, np.float32),
    )
    record = TokenRecord(
        completion_ids=ids,
        sampler_logprobs=-values,
        student_logprobs=-values,
        teacher_logprobs=-2 * values,
        reverse_kl=values,
        teacher_rank=np.arange(TOKENS),
        mask=np.ones(TOKENS, np.float32),
        student_topk=top,
        teacher_topk=top,
    )
    return Rollout(
        step=step,
        kind="train",
        group=0,
        sample=sample,
        prompt="why <b>",
        prompt_ids=np.array([1, 1]),
        completion=" butÉ but but",
        finish_reason="stop",
        temperature=1.0,
        record=record,
        reward=float(sample == 0),
        answer="42",
    )


def stored_run(engine: Engine) -> str:
    """A run with two steps of three rollouts, one evaluation, and no job behind it."""
    run_id = jobs.create_run(engine, parse({"name": "with tokens"}), recipe="demo")
    train(engine, run_id)
    return run_id


def train(engine: Engine, run_id: str) -> None:
    """What a job would store of a queued run that has two steps."""
    owner = jobs.Owner(pid=1, started=1.0, boot="b")
    attempt = jobs.claim(engine, run_id, "cpu", owner)
    assert attempt is not None
    writer = RunWriter(engine, run_id, attempt)
    writer.models(ModelsEvent({"student": "/s", "teacher": "/t"}, "print", "cpu"), {"torch": "2"})
    for step in (1, 2):
        writer.step(
            StepEvent(
                step=step,
                seconds={"sample": 0.5},
                tokens=3 * TOKENS,
                flops=1e9,
                metrics={"reverse_kl": 0.5 / step},
                rollouts=[rollout(step, sample) for sample in range(3)],
            ),
            vocabulary,
        )
    writer.evaluation(EvaluationEvent(2, [Score("held-out", "pass@1", 0.5, 10, 0.1)]), vocabulary)
    jobs.finish(engine, run_id, attempt, "finished")


def first_rollout(api: Api, run_id: str) -> str:
    name: str = api.get(f"/runs/{run_id}/rollouts", limit=1)["items"][0]["id"]
    return name
