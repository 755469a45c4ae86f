"""The Gradio shell: one Blocks with a page per address, each filled by our own scripts.

Every page is a constant template; what users and models wrote is fetched by the scripts from
the REST routes and put on the page as text nodes, so no data passes through a template.
"""

from dataclasses import dataclass
from typing import Any

import gradio as gr
import orjson
from gradio.components.navbar import Navbar
from starlette.types import ASGIApp

from app.page_files import edition
from app.programs.endpoints import Endpoints
from app.scripts import sources, style_sheets

SANS = ("ui-sans-serif", "system-ui", "sans-serif")
MONO = ("ui-monospace", "monospace")


@dataclass(frozen=True)
class Page:
    """A page, filled by `script` (a path below static/). `path` "" is the first page's."""

    name: str
    title: str
    path: str
    script: str
    in_navbar: bool = True


PAGES = (
    Page("runs", "Runs", "", "runs/runs.js"),
    Page("new", "New run", "/new", "new/new.js"),
    Page("experiments", "Experiments", "/experiments", "experiments/experiments.js"),
    Page("compare", "Compare", "/compare", "compare/compare.js"),
    Page("playground", "Playground", "/playground", "playground/playground.js"),
    Page("tour", "Tour", "/tour", "tour/tour.js"),
    Page("run", "Run", "/run", "run/run.js", in_navbar=False),
    Page("rollouts", "Rollouts", "/rollouts", "rollouts/rollouts.js", in_navbar=False),
    Page("rollout", "Rollout", "/rollout", "rollout/rollout.js", in_navbar=False),
    Page("guide", "Guide", "/guide", "guide/guide.js", in_navbar=False),
    Page("experiment", "Experiment", "/experiment", "experiments/experiment.js", in_navbar=False),
)
# Gradio's footer, which leads to its view of the endpoints, is shown on this page only.
ENDPOINTS_TITLE, ENDPOINTS_PATH = "Endpoints", "/endpoints"
ENDPOINTS_TEXT = (
    '<div class="opd opd-endpoints"><h1>Endpoints</h1><p>Programs call them with '
    "<code>gradio_client</code>; <b>Use via API</b> lists each with its parameters. The "
    "access token goes into the header <code>Authorization: Bearer TOKEN</code>.</p></div>"
)


def build_pages(site: ASGIApp) -> gr.Blocks:
    """All pages: those about one run, rollout or experiment by address, the others in the
    navigation bar. The endpoints, which ask `site`, have a page of their own, so that the others
    do not carry their descriptions."""
    demo: gr.Blocks = gr.Blocks(title="OPD Studio", analytics_enabled=False, fill_width=True)
    first, *others = PAGES
    with demo:
        _fill(first)
        for page in others:
            _begin(demo, page.title, page.path, shown=page.in_navbar)
            _fill(page)
        _begin(demo, ENDPOINTS_TITLE, ENDPOINTS_PATH, shown=False)
        Navbar(main_page_name=PAGES[0].title)
        gr.HTML(html_template=ENDPOINTS_TEXT, js_on_load=None, apply_default_css=False)
        Endpoints(site).add()
    return demo


def _begin(demo: gr.Blocks, title: str, path: str, *, shown: bool) -> None:
    """What follows belongs to this page. `Blocks.route` does the same, and at the end of each page
    makes the whole application, half a second in all."""
    name = path.strip("/")
    demo.pages.append((name, title, shown))
    demo.current_page = name


def _fill(page: Page) -> None:
    """A constant element for the page's script, under the navigation bar."""
    Navbar(main_page_name=PAGES[0].title)
    template = f'<div class="opd" data-opd-page="{page.name}"></div>'
    gr.HTML(html_template=template, js_on_load=None, apply_default_css=False)


def mount_options() -> dict[str, Any]:
    """Keyword arguments of `gr.mount_gradio_app` that belong to the look of the pages."""
    return {
        "theme": gr.themes.Base(font=list(SANS), font_mono=list(MONO)),
        "head": head(),
        "footer_links": ["api"],
        "run_history": False,
        "show_error": False,
        "pwa": False,
        "ssr_mode": False,
    }


def head() -> str:
    """Links to style sheets and the first script, relative so that a path prefix is kept; and which
    scripts each page needs, its own first, so that the first script fetches them all at once."""
    folder = f"static/{edition()}"
    styles = [f'<link rel="stylesheet" href="{folder}/{name}">' for name in style_sheets()]
    scripts = orjson.dumps({page.name: [*sources(page.script)] for page in PAGES}).decode()
    return "\n".join(
        [
            *styles,
            f'<script type="application/json" id="opd-scripts">{scripts}</script>',
            f'<script type="module" src="{folder}/lib/main.js"></script>',
        ]
    )
