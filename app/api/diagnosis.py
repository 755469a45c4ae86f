"""REST routes of what looks wrong with a run, and the evidence."""

from fastapi import APIRouter

router = APIRouter(prefix="/api/v1", tags=["diagnosis"])
