"""Runs: drawn by static/runs.js."""

import gradio as gr

TEMPLATE = '<div class="opd" data-opd-page="runs"></div>'


def page() -> None:
    gr.Navbar(main_page_name="Runs")
    gr.HTML(html_template=TEMPLATE, js_on_load=None, apply_default_css=False)
