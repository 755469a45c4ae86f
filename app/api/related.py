"""REST routes of rollouts of the same prompt."""

from fastapi import APIRouter

router = APIRouter(prefix="/api/v1", tags=["related"])
