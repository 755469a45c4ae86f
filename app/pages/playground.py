"""A chat with student and teacher: drawn by static/playground.js."""

from app.pages.place import place


def page() -> None:
    place("playground")
