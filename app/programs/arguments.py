"""What callers of the endpoints give, made fit for the REST routes, and how they are refused."""

import re
from typing import Any
from urllib.parse import quote

import gradio as gr

MAX_WAIT = 3600.0
MAX_TEXT = 2000  # characters of an id or of a text to look for
CHANGES = re.compile(r"^set\b")  # what the endpoints call the assignments of a request


def config_body(recipe: str | None, yaml: str | None, changes: list[str]) -> dict[str, Any]:
    """Raises gr.Error for both: for REST, a recipe beside YAML only says where that came from."""
    if recipe is not None and yaml is not None:
        raise refused("give recipe or yaml, not both")
    return {"recipe": recipe, "yaml": yaml, "set": changes}


def part(field: str, name: str) -> str:
    """An id as one part of an address. Raises gr.Error for what would lead elsewhere."""
    if not isinstance(name, str) or "/" in name or name in ("", ".", ".."):
        raise refused(f"{field}: there is nothing at this address")
    if len(name) > MAX_TEXT:
        raise refused(f"{field}: must have at most {MAX_TEXT} characters (got {len(name)})")
    return quote(name.encode("utf-8", "replace"), safe="")


def sendable(name: str, value: Any) -> Any:
    """A value of a query, without halves of characters. Raises gr.Error for what is too long."""
    text = value if isinstance(value, str) else ""
    if len(text) > MAX_TEXT:
        raise refused(f"{name}: must have at most {MAX_TEXT} characters (got {len(text)})")
    return text.encode("utf-8", "replace").decode() or value


def seconds_to_wait(wait: Any) -> float:
    """Raises gr.Error for what is not a number of seconds that a call may wait."""
    if isinstance(wait, bool) or not isinstance(wait, int | float) or not 0 <= wait <= MAX_WAIT:
        raise refused(f"wait: must be 0 to {MAX_WAIT:g} seconds (got {repr(wait)[:40]})")
    return float(wait)


def text_of(refusal: dict[str, Any]) -> str:
    """Every problem of a refused request, in REST's words."""
    if "problems" in refusal:
        pairs = [(CHANGES.sub("changes", p["field"]), p["message"]) for p in refusal["problems"]]
    else:
        pairs = [(refusal.get("where", ""), refusal["error"])]
    return "; ".join(f"{field}: {message}" if field else message for field, message in pairs)


def refused(text: str) -> gr.Error:
    return gr.Error(text, print_exception=False)
