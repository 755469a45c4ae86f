"""Runs: drawn by static/runs.js."""

from app.pages.place import place


def page() -> None:
    place("runs")
