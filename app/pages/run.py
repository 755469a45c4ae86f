"""One run: drawn by static/run.js."""

from app.pages.place import place


def page() -> None:
    place("run")
