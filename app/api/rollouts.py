"""REST routes of rollouts and their tokens."""

from typing import Annotated

from fastapi import APIRouter, Header, Query
from starlette.responses import Response

from app.api.inputs import (
    MAX_OFFSET,
    Database,
    Limit,
    Offset,
    RolloutId,
    RunId,
    SearchText,
    Sort,
    Step,
)
from app.api.payload import encode, etag
from app.api.replies import Json
from opd.config import FinishReason, Kind
from storage import queries

router = APIRouter(prefix="/api/v1", tags=["rollouts"])
MAX_POSITIONS = 512
ALL_COLUMNS = (*queries.MAIN_COLUMNS, *queries.EXTRA_COLUMNS)


@router.get("/runs/{run_id}/rollouts")
def list_rollouts(
    engine: Database,
    run_id: RunId,
    sort: Sort = "-kl_sum",
    offset: Offset = 0,
    limit: Limit = 50,
    step: Step | None = None,
    kind: Kind | None = None,
    finish_reason: FinishReason | None = None,
    correct: bool | None = None,
    min_kl: Annotated[float | None, Query(allow_inf_nan=False)] = None,
    text: SearchText = "",
) -> Response:
    """A page of the run's rollouts with their sums, sorted by one of them."""
    return Json(
        queries.rollouts(
            engine,
            run_id,
            sort=sort,
            offset=offset,
            limit=limit,
            step=step,
            kind=kind,
            finish_reason=finish_reason,
            correct=correct,
            min_kl=min_kl,
            text=text,
        )
    )


@router.get("/runs/{run_id}/hot-tokens")
def list_hot_tokens(
    engine: Database,
    run_id: RunId,
    limit: Limit = 50,
    offset: Offset = 0,
    step: Step | None = None,
    kind: Kind | None = None,
) -> Response:
    """The tokens of the run at which student and teacher disagree most."""
    found = queries.hot_tokens(engine, run_id, limit=limit, offset=offset, step=step, kind=kind)
    return Json(found)


@router.get("/rollouts/{rollout_id}")
def get_rollout(engine: Database, rollout_id: RolloutId) -> Response:
    return Json(queries.rollout(engine, rollout_id))


@router.get("/rollouts/{rollout_id}/tokens", response_class=Response)
def get_tokens(
    engine: Database,
    rollout_id: RolloutId,
    columns: Annotated[str, Query(pattern=r"^[a-z_,]{0,300}$")] = "",
    if_none_match: Annotated[str, Header()] = "",
) -> Response:
    """The tokens in binary form (see app/api/payload.py).

    `columns`: names with commas between, or `all`; without it the main ones, and of the others
    those that fit into 24 bytes a token. The header's `more` names what was left out.
    """
    asked = tuple(columns.split(",")) if columns not in ("", "all") else ALL_COLUMNS
    payload = encode(queries.tokens(engine, rollout_id, asked), whole=columns != "")
    headers = {"etag": etag(payload), "cache-control": "private, no-cache"}
    if headers["etag"] in if_none_match:
        return Response(status_code=304, headers=headers)
    return Response(payload, media_type="application/octet-stream", headers=headers)


@router.get("/rollouts/{rollout_id}/topk")
def get_topk(
    engine: Database,
    rollout_id: RolloutId,
    position: Annotated[int, Query(ge=0, le=MAX_OFFSET)],
    count: Annotated[int, Query(ge=1, le=MAX_POSITIONS)] = 1,
) -> Response:
    """Both models' alternatives at `count` tokens from `position` on, as far as there are any."""
    items = queries.topk_range(engine, rollout_id, position, count)
    return Json({"items": items, "total": len(items)})
