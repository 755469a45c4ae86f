"""REST routes of what-if and chat: the model process answers."""

from fastapi import APIRouter

router = APIRouter(prefix="/api/v1", tags=["asking"])
