"""Pages are what Gradio's own `route` would make of them, built in a process of their own, which
imports Gradio as the server does."""

import json
import subprocess
import sys

from app.pages import ENDPOINTS_PATH, PAGES

BUILD = """
import json
import sys
from app.server import _imported_gradio
gr = _imported_gradio(with_mcp=False)
from app.pages import _begin, build_pages

def without_ids(value):  # they count on from what was built before
    if isinstance(value, dict):
        return {k: without_ids(v) for k, v in value.items() if k != "app_id"}
    if isinstance(value, list):
        return [without_ids(v) for v in value]
    return 0 if isinstance(value, int) and not isinstance(value, bool) else value

with gr.Blocks(analytics_enabled=False) as ours:
    gr.HTML("first")
    _begin(ours, "Second", "/second", shown=False)
    gr.HTML("second")
with gr.Blocks(analytics_enabled=False) as theirs:
    gr.HTML("first")
with theirs.route("Second", "/second", show_in_navbar=False):
    gr.HTML("second")
whole = build_pages(None)
print(json.dumps({
    "mcp": sorted(name for name in sys.modules if name.partition(".")[0] == "mcp"),
    "ours": [without_ids(ours.config), ours.pages, ours.current_page],
    "theirs": [without_ids(theirs.config), theirs.pages, theirs.current_page],
    "pages": whole.config["pages"],
    "filled": {name: len(page["components"]) for name, page in whole.config["page"].items()},
}, default=str))
"""


def test_pages_are_as_by_route() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BUILD], capture_output=True, text=True, check=True, timeout=120
    )
    answers = json.loads(done.stdout.splitlines()[-1])
    assert answers["mcp"] == [], "the library of MCP is imported only where it is served"
    assert answers["ours"] == answers["theirs"]
    page = answers["ours"][0]["page"]
    assert len(page[""]["components"]) == len(page["second"]["components"]) == 1
    shown = [name for name, _, in_navbar in answers["pages"] if in_navbar]
    assert shown == [p.path.strip("/") for p in PAGES if p.in_navbar]
    assert set(answers["filled"]) == {p.path.strip("/") for p in (*PAGES,)} | {ENDPOINTS_PATH[1:]}
    assert all(answers["filled"].values())
