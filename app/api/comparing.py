"""REST routes of runs side by side."""

from fastapi import APIRouter

router = APIRouter(prefix="/api/v1", tags=["comparing"])
