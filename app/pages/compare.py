"""Runs over a chosen axis: drawn by static/compare.js."""

from app.pages.place import place


def page() -> None:
    place("compare")
