"""REST routes of what-if and chat, which the model process answers, and of its requests."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import AfterValidator, Field, model_validator
from starlette.responses import Response

from app.api.http.inputs import (
    AskId,
    Body,
    ConfigSource,
    Database,
    RolloutId,
    RolloutName,
    RunName,
    Text,
)
from app.api.http.replies import Json
from app.worker.owners.place import boot_id
from opd.config.data import check_prompt_set
from opd.config.paths import with_absolute_paths
from opd.config.recipes import recipe
from opd.errors import ErrorKind, UserError
from storage.queue import requests
from storage.queue.model_state import read_model_state
from storage.read.branches import read_branches
from storage.read.rollouts import read_rollout
from storage.read.runs import read_run

router = APIRouter(prefix="/api/v1", tags=["asking"])
MAX_TEXT = 20_000  # characters
MAX_ID = 10_000_000
MAX_STEP = 1_000_000_000
BASE_RECIPE = "demo"
Speaker = Literal["student", "teacher"]
Checkpoint = Literal["newest", "start"] | Annotated[int, Field(ge=0, le=MAX_STEP)]


class Sampled(Body):
    """Sampling settings; temperature 0 takes the most likely token and is scored at 1.

    device: `auto` is that of the run's configuration, refused while a run has it; `cpu` always is
    the processor.
    """

    checkpoint: Checkpoint = "newest"
    temperature: float = Field(1.0, ge=0, le=10)
    max_new_tokens: int = Field(128, ge=1, le=2048)
    seed: int = Field(0, ge=0, le=2**31 - 1)
    device: Literal["auto", "cpu"] = "auto"


class WhatIf(Sampled):
    """Another choice at a position of a rollout's completion: a token id or a text."""

    rollout: RolloutName
    position: int = Field(ge=0, le=MAX_STEP)
    token: int | None = Field(None, ge=0, le=MAX_ID)
    text: Annotated[Text, Field(min_length=1, max_length=MAX_TEXT)] | None = None
    authors: list[Speaker] = Field(["student", "teacher"], min_length=1, max_length=2)
    samples: int = Field(1, ge=1, le=8)

    @model_validator(mode="after")
    def _one_choice(self) -> "WhatIf":
        if (self.token is None) == (self.text is None):
            raise ValueError("give either token or text")
        return self


class Message(Body):
    role: Literal["system", "user", "assistant"]
    content: Annotated[Text, Field(max_length=MAX_TEXT)]


def _awaits_a_reply(messages: list[Message]) -> list[Message]:
    if messages[-1].role != "user" or not messages[-1].content:
        raise ValueError("the last message must be the user's, and not empty")
    length = sum(len(m.content) for m in messages)
    if length > MAX_TEXT:
        raise ValueError(f"has {length} characters, at most {MAX_TEXT}")
    return messages


Conversation = Annotated[
    list[Message], Field(min_length=1, max_length=100), AfterValidator(_awaits_a_reply)
]


class Chat(Sampled):
    """The conversation so far with each speaker; the models are those of a run or a recipe.

    session: a random name of your own for all turns of one chat; what the models have read of it
    stays in memory and is not read again.
    """

    session: str | None = Field(None, pattern=r"^[0-9A-Za-z_-]{1,64}$")

    run: RunName | None = None
    recipe: Annotated[Text, Field(max_length=100)] = BASE_RECIPE
    conversations: dict[Speaker, Conversation] = Field(min_length=1)


class PreviewPrompts(ConfigSource):
    """A configuration, and which of its prompts: `train`, `held-out`, `probe`, or a suite's section
    (`evaluation.suites.NAME`)."""

    prompts: Annotated[Text, Field(max_length=200)] = "train"
    count: int = Field(3, ge=1, le=20)


class Keep(Body):
    reply: int = Field(0, ge=0, le=1)


@router.post("/prompt-preview", status_code=201)
def ask_prompt_preview(engine: Database, body: PreviewPrompts) -> Response:
    """Queues a request; its answer holds the rows as read and the first prompts as student and
    teacher will read them. No weights are loaded."""
    config = with_absolute_paths(body.validated())
    check_prompt_set(body.prompts, config.evaluation.suites)
    settings = config.model_dump(mode="json")
    payload = {"config": settings, "prompts": body.prompts, "count": body.count}
    return Json({"id": requests.enqueue(engine, "prompts", payload, boot_id())}, 201)


@router.post("/what-if", status_code=201)
def ask_what_if(engine: Database, body: WhatIf) -> Response:
    """Queues a request; its answer names the branches, stored as rollouts of the run."""
    parent = read_rollout(engine, body.rollout)
    if body.position >= parent["tokens"]:
        raise UserError(
            f"must be 0 to {parent['tokens'] - 1}, the rollout's last token (got {body.position})",
            where="position",
        )
    payload = body.model_dump(mode="json")
    run = read_run(engine, parent["run_id"])
    payload |= {"run": run["id"], "checkpoint": _step(run, body.checkpoint)}
    return Json({"id": requests.enqueue(engine, "what-if", payload, boot_id())}, 201)


@router.post("/chat", status_code=201)
def ask_chat(engine: Database, body: Chat) -> Response:
    """Queues a request; its answer holds the replies, token by token as they are written."""
    payload = body.model_dump(mode="json")
    if body.run is not None:
        run = read_run(engine, body.run)
        payload |= {"checkpoint": _step(run, body.checkpoint), "recipe": None}
    else:
        recipe(body.recipe)  # raises for one that is not there
        payload["checkpoint"] = None
    return Json({"id": requests.enqueue(engine, "chat", payload, boot_id())}, 201)


@router.post("/chat/{ask_id}/keep", status_code=201)
def keep_reply(engine: Database, ask_id: AskId, body: Keep) -> Response:
    """Queues a request that stores a reply as a rollout of the run, scored by both models."""
    chat = requests.read_whole_request(engine, ask_id)
    replies = (chat["answer"] or {}).get("replies", [])
    if chat["kind"] != "chat" or chat["state"] != "done":
        raise UserError("only a finished chat can be kept", where=ask_id)
    if body.reply >= len(replies):
        raise UserError(f"must be 0 to {len(replies) - 1} (got {body.reply})", where="reply")
    if chat["payload"]["run"] is None:
        raise UserError(
            "this chat belongs to no run, so it cannot be kept; choose a run", where="run"
        )
    payload = chat["payload"] | {"reply": replies[body.reply]}
    return Json({"id": requests.enqueue(engine, "keep", payload, boot_id())}, 201)


@router.get("/questions/{ask_id}")
def get_question(engine: Database, ask_id: AskId) -> Response:
    """State of a request (queued, running, done, failed), its phase, and the answer so far."""
    return Json(requests.read_request(engine, ask_id))


@router.delete("/questions/{ask_id}")
def cancel_question(engine: Database, ask_id: AskId) -> Response:
    """Cancels a request that is no longer needed; one that has ended is left as it is."""
    requests.fail(engine, ask_id, "cancelled by the client", kind=ErrorKind.CANCELLED)
    return Json(requests.read_request(engine, ask_id))


@router.get("/rollouts/{rollout_id}/branches")
def list_branches(engine: Database, rollout_id: RolloutId) -> Response:
    """The branches of a rollout by position, and the rollout that it branched from."""
    return Json(read_branches(engine, rollout_id))


@router.get("/models/state")
def models_state(request: Request) -> Response:
    """State of the model process (asleep, awake, loading, ready) and the models it holds."""
    return Json(read_model_state(request.app.state.data_dir))


def _step(run: dict[str, Any], checkpoint: Checkpoint) -> int | None:
    """The checkpoint's step; None for the start. Raises UserError that says what there is."""
    if run["source"] == "import":
        raise UserError(
            "an imported run names no models to continue with; train one, or use a recipe's models",
            where="run",
        )
    if checkpoint == "start":
        return None
    steps = [c["step"] for c in run["checkpoints"]]
    if not steps:
        raise UserError(
            'the run has no checkpoint yet; "start" uses the models it started from',
            where="checkpoint",
        )
    if checkpoint == "newest":
        return int(steps[-1])
    if checkpoint not in steps:
        there = ", ".join(map(str, steps))
        raise UserError(
            f'the run has no checkpoint of step {checkpoint}; it has {there}, and "start"',
            where="checkpoint",
        )
    return int(checkpoint)
