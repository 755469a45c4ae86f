"""REST routes of stored rollouts under another objective."""

from fastapi import APIRouter

router = APIRouter(prefix="/api/v1", tags=["lab"])
