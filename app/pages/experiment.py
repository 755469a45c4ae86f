"""One experiment: drawn by static/experiment.js."""

from app.pages.place import place


def page() -> None:
    place("experiment")
