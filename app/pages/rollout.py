"""One rollout, token by token: drawn by static/rollout.js."""

from app.pages.place import place


def page() -> None:
    place("rollout")
