"""The token view as a component: in a foreign Gradio application, and in a notebook's page."""

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import nbconvert
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from playwright.sync_api import expect

from app import component
from app.component import TokenHeatmap
from opd.errors import UserError

pytestmark = pytest.mark.browser
HOSTILE = '</script><img src=x onerror="parent.stolen=1">'
ROW = {
    "prompt": f"why {HOSTILE}",
    "completion_tokens": [" so", HOSTILE, " it", " is"],
    "student_logprobs": np.array([-0.1, -0.2, -3.0, -0.4]),
    "teacher_logprobs": [-0.3, -2.0, -0.1, -0.2],
    "temperature": 0.5,
}


@pytest.fixture
def watched(chromium: Any) -> Iterator[tuple[Any, list[str]]]:
    """A page, and every address that it asks for; nothing may be on its console."""
    page = chromium.new_page(viewport={"width": 1280, "height": 800})
    addresses: list[str] = []
    faults: list[str] = []
    page.on("request", lambda request: addresses.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    yield page, addresses
    page.close()
    assert faults == []


def shows_the_tokens(page: Any) -> None:
    frame = page.frame_locator("iframe")
    expect(frame.locator('#token-view[data-ready="true"]')).to_have_attribute("data-tokens", "4")
    expect(frame.locator("[data-index='1']").first).to_contain_text("</script><img")
    painted = "e => getComputedStyle(e).backgroundColor + getComputedStyle(e).backgroundImage"
    tints = {frame.locator(f"[data-index='{i}']").first.evaluate(painted) for i in (2, 3)}
    assert len(tints) == 2, "the token with the larger disagreement is tinted otherwise"
    frame.locator("[data-index='2']").first.click()
    expect(frame.locator("#token-detail")).to_contain_text("−2.900")
    expect(frame.locator("body")).to_contain_text("temperature 0.5")
    frame.locator("a[href='#run']").first.click()
    expect(frame.locator(".run-head")).to_be_visible()
    assert page.evaluate("window.stolen") is None


def test_it_works_in_a_foreign_application(
    watched: tuple[Any, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    page, addresses = watched
    with gr.Blocks(analytics_enabled=False) as demo:
        TokenHeatmap(ROW)
        shown = TokenHeatmap(height=300)
        button = gr.Button("Show")
        button.click(lambda: ROW, None, shown)
    _, address, _ = demo.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False)
    try:
        page.goto(address)
        shows_the_tokens(page)
        page.get_by_role("button", name="Show").click()
        expect(page.locator("iframe")).to_have_count(2)
        inside = page.frame_locator("iframe >> nth=1").locator('#token-view[data-ready="true"]')
        expect(inside).to_have_attribute("data-tokens", "4")
    finally:
        demo.close()
    ours = re.compile(r"/api/v1|/static/(e-\w+/)?(rollout|lib)/")
    assert not [a for a in addresses if ours.search(a)]


def test_it_works_in_a_notebook_that_nbconvert_renders(
    watched: tuple[Any, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cell's output is what a kernel stores of the component; nothing is fetched to show it."""
    page, addresses = watched
    data = {"text/html": TokenHeatmap(ROW)._repr_html_(), "text/plain": "TokenHeatmap"}
    output = new_output("execute_result", data, execution_count=1)
    cell = new_code_cell("TokenHeatmap(row)", execution_count=1, outputs=[output])
    beside = Path(nbconvert.__file__).parents[4]  # its templates, also from a venv on top of it
    monkeypatch.setenv("JUPYTER_PATH", str(beside / "share" / "jupyter"))
    text, _ = nbconvert.HTMLExporter().from_notebook_node(
        new_notebook(cells=[cell], metadata={"language_info": {"name": "python"}})
    )
    file = tmp_path / "notebook.html"
    file.write_text(text, encoding="utf-8")
    page.context.set_offline(True)
    page.goto(file.as_uri())
    expect(page.locator("body")).to_contain_text("TokenHeatmap(row)")
    shows_the_tokens(page)
    foreign = [a for a in addresses if not a.startswith(("file:", "data:", "about:"))]
    assert all("mathjax" in a.lower() or "require" in a.lower() for a in foreign), foreign


def test_wrong_values_are_refused_by_field() -> None:
    for row, message in (
        ({"completion_tokens": ["a"], "student_logprobs": [-1.0, -2.0]}, "student_logprobs"),
        ({"completion_tokens": ["a"], "teacher_logprobs": [float("nan")]}, "teacher_logprobs"),
        ({"prompt": "no completion"}, "completion_token_ids"),
        ({"completion_tokens": [object()]}, "rollout"),
    ):
        with pytest.raises(UserError, match=message):
            TokenHeatmap(row)
    with pytest.raises(UserError, match="height: must be 200 to 4000"):
        TokenHeatmap(ROW, height=10)
    assert not Path(component.__file__).with_suffix(".pyi").exists()
    assert TokenHeatmap()._repr_html_() == ""
    assert html.escape("<script") in TokenHeatmap(ROW)._repr_html_()
