"""New run: drawn by static/new.js."""

from app.pages.place import place


def page() -> None:
    place("new")
