"""Experiments that can be run and those that were: drawn by static/experiments.js."""

from app.pages.place import place


def page() -> None:
    place("experiments")
