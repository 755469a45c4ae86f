"""REST routes of aggregates over a run's tokens."""

from fastapi import APIRouter

router = APIRouter(prefix="/api/v1", tags=["insights"])
