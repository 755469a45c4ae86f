"""Five steps that tell the story: drawn by static/tour.js."""

from app.pages.place import place


def page() -> None:
    place("tour")
