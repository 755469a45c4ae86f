"""The empty place on a page that its script fills."""

import gradio as gr
from gradio.components.navbar import Navbar


def place(name: str) -> None:
    """A constant element for static/NAME.js, under the navigation bar."""
    Navbar(main_page_name="Runs")
    template = f'<div class="opd" data-opd-page="{name}"></div>'
    gr.HTML(html_template=template, js_on_load=None, apply_default_css=False)
