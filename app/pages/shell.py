"""The Gradio shell: one Blocks with a page per address, each filled by our own scripts.

Every page is a constant template; what users and models wrote is fetched by the scripts from
the REST routes and put on the page as text nodes, so no data passes through a template.
"""

from typing import Any

import gradio as gr
import orjson

from app.pages import (
    compare,
    experiment,
    experiments,
    new,
    playground,
    rollout,
    rollouts,
    run,
    runs,
    tour,
)
from app.scripts import STATIC, sources

PAGES = (
    *("runs", "new", "run", "rollouts", "rollout", "compare", "experiments", "experiment"),
    *("playground", "tour"),
)
SANS = ("ui-sans-serif", "system-ui", "sans-serif")
MONO = ("ui-monospace", "monospace")


def build_pages() -> gr.Blocks:
    """All pages: those about one run, rollout or experiment by address, the others in the
    navigation bar."""
    demo: gr.Blocks = gr.Blocks(title="OPD Studio", analytics_enabled=False, fill_width=True)
    with demo:
        runs.page()
    for name, path, module in (
        ("New run", "/new", new),
        ("Experiments", "/experiments", experiments),
        ("Compare", "/compare", compare),
        ("Playground", "/playground", playground),
        ("Tour", "/tour", tour),
    ):
        with demo.route(name, path):
            module.page()
    for name, path, module in (
        ("Run", "/run", run),
        ("Rollouts", "/rollouts", rollouts),
        ("Rollout", "/rollout", rollout),
        ("Experiment", "/experiment", experiment),
    ):
        with demo.route(name, path, show_in_navbar=False):
            module.page()
    return demo


def mount_options() -> dict[str, Any]:
    """Keyword arguments of `gr.mount_gradio_app` that belong to the look of the pages."""
    return {
        "theme": gr.themes.Base(font=list(SANS), font_mono=list(MONO)),
        "head": head(),
        "footer_links": [],
        "run_history": False,
        "show_error": False,
        "pwa": False,
        "ssr_mode": False,
    }


def head() -> str:
    """Links to style sheets and the first script, relative so that a path prefix is kept; and which
    scripts each page needs, so that the first one fetches them all at once."""
    styles = [
        f'<link rel="stylesheet" href="static/{p.name}">' for p in sorted(STATIC.glob("*.css"))
    ]
    scripts = orjson.dumps({page: [*sources(f"{page}.js")] for page in PAGES}).decode()
    return "\n".join(
        [
            *styles,
            f'<script type="application/json" id="opd-scripts">{scripts}</script>',
            '<script type="module" src="static/main.js"></script>',
        ]
    )
