"""REST routes of rollouts and their tokens."""

from typing import Annotated

from fastapi import APIRouter, Header, Query
from pydantic import BaseModel, Field
from starlette.responses import Response

from app.api.http.inputs import (
    MAX_OFFSET,
    Database,
    Limit,
    Offset,
    RolloutId,
    RunId,
    SearchText,
    Sort,
)
from app.api.http.replies import Json
from app.payload import encode, etag
from opd.types import FinishReason, Kind
from storage.insights.hot_tokens import read_hot_tokens
from storage.insights.token_classes import TokenClass
from storage.read.export import export_row
from storage.read.rollouts import read_rollout, read_rollouts
from storage.read.tokens import EXTRA_COLUMNS, MAIN_COLUMNS, read_tokens, read_topk

router = APIRouter(prefix="/api/v1", tags=["rollouts"])
MAX_POSITIONS = 512
ALL_COLUMNS = (*MAIN_COLUMNS, *EXTRA_COLUMNS)
Bound = Annotated[int | None, Field(ge=0, le=MAX_OFFSET)]
Nats = Annotated[float | None, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]


class PageParameters(BaseModel):
    """Filters of a list of rollouts, and the page of it."""

    offset: Offset = 0
    limit: Limit = 50
    step: Bound = None
    min_step: Bound = None
    max_step: Bound = None
    kind: Kind | None = None
    finish_reason: FinishReason | None = None
    correct: bool | None = None
    teacher: SearchText = ""
    text: SearchText = ""


class RolloutParameters(PageParameters):
    sort: Sort = "-kl_sum"
    min_kl: Nats = None
    min_kl_max: Nats = None
    min_tokens: Bound = None
    max_tokens: Bound = None
    marked: bool | None = None


class TokenParameters(PageParameters):
    """Positions are bounded inclusively; values in nats from `min` up to below `max`."""

    token_class: TokenClass | None = Field(default=None, alias="class")
    token_id: Annotated[int | None, Field(ge=0, lt=2**32)] = None
    min_position: Bound = None
    max_position: Bound = None
    min_entropy: Nats = None
    max_entropy: Nats = None
    min_heat: Nats = None
    max_heat: Nats = None
    min_advantage: Nats = None
    max_advantage: Nats = None


@router.get("/runs/{run_id}/rollouts")
def list_rollouts(
    engine: Database, run_id: RunId, parameters: Annotated[RolloutParameters, Query()]
) -> Response:
    """A page of the run's rollouts with their sums, sorted by one of them."""
    return Json(read_rollouts(engine, run_id, **parameters.model_dump()))


@router.get("/runs/{run_id}/hot-tokens")
def list_hot_tokens(
    engine: Database, run_id: RunId, parameters: Annotated[TokenParameters, Query()]
) -> Response:
    """The tokens of the run at which student and teacher disagree most.

    With filters on rollouts only, from the index of each rollout's worst tokens (`source` is
    "index"); with filters on tokens, from the full records ("records").
    """
    return Json(read_hot_tokens(engine, run_id, **parameters.model_dump()))


@router.get("/rollouts/{rollout_id}")
def get_rollout(engine: Database, rollout_id: RolloutId) -> Response:
    return Json(read_rollout(engine, rollout_id))


@router.get("/rollouts/{rollout_id}/tokens", response_class=Response)
def get_tokens(
    engine: Database,
    rollout_id: RolloutId,
    columns: Annotated[str, Query(pattern=r"^[a-z_,]{0,300}$")] = "",
    if_none_match: Annotated[str, Header()] = "",
) -> Response:
    """The tokens in binary form (see app/payload.py).

    `columns`: names separated by commas, or `all`; by default the main ones, and as many others as
    fit into 24 bytes per token. The header's `more` names what was left out.
    """
    names = tuple(columns.split(",")) if columns not in ("", "all") else ALL_COLUMNS
    payload = encode(read_tokens(engine, rollout_id, names), whole=columns != "")
    headers = {"etag": etag(payload), "cache-control": "private, no-cache"}
    if headers["etag"] in if_none_match:
        return Response(status_code=304, headers=headers)
    return Response(payload, media_type="application/octet-stream", headers=headers)


@router.get("/rollouts/{rollout_id}/record")
def get_record(engine: Database, rollout_id: RolloutId) -> Response:
    """The rollout with every token as JSON: what `opd export` writes and `opd import` reads."""
    return Json(export_row(engine, rollout_id))


@router.get("/rollouts/{rollout_id}/topk")
def get_topk(
    engine: Database,
    rollout_id: RolloutId,
    position: Annotated[int, Query(ge=0, le=MAX_OFFSET)],
    count: Annotated[int, Query(ge=1, le=MAX_POSITIONS)] = 1,
) -> Response:
    """Both models' alternatives at `count` positions from `position` on, where stored."""
    items = read_topk(engine, rollout_id, position, count)
    return Json({"items": items, "total": len(items)})
