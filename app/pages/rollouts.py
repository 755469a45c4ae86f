"""The rollouts of a run: drawn by static/rollouts.js."""

from app.pages.place import place


def page() -> None:
    place("rollouts")
