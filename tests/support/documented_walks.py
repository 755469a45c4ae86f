"""Walks through the questions of docs/guide/inspecting.md: only clicks that are written there."""

import re
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).parents[2] / "docs" / "guide" / "inspecting.md"
MOST_CLICKS = 4
# What the page calls an element: its text, its label, and those of the table or section it is in
NAMES = """e => [
    e.innerText, e.ariaLabel, e.title, ...[...(e.labels ?? [])].map((l) => l.innerText),
    ...["table", "section", "ul"].map((s) => e.closest(s)?.ariaLabel),
].filter(Boolean).join("\\n")"""


def documented() -> dict[int, tuple[str, list[str]]]:
    """Number → title and numbered clicks of each question in the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    walks = {}
    for number, title, body in re.findall(r"^### (\d+)\. (.+)\n((?:(?!###).*\n?)*)", text, re.M):
        clicks = re.findall(r"^(\d+)\. (.+)$", body, re.M)
        assert [int(number) for number, _ in clicks] == list(range(1, len(clicks) + 1)), title
        walks[int(number)] = (title, [click for _, click in clicks])
    return walks


class Walk:
    """Clicks as a question's list says; each must name what the page calls the thing."""

    def __init__(self, page: Any, number: int, title: str) -> None:
        self.page = page
        self.title, self.steps = documented()[number]
        assert self.title == title
        self.count = 0

    def step(self) -> str:
        self.count += 1
        assert self.count <= len(self.steps), f"{self.title}: more clicks than documented"
        return self.steps[self.count - 1]

    def named(self, element: Any) -> str:
        step = self.step()
        names = element.evaluate(NAMES)
        for label in re.findall(r"\*\*(.+?)\*\*", step):
            assert label.lower() in names.lower(), f"{label!r} is not among {names!r}"
        return step

    def click(self, element: Any) -> None:
        self.named(element)
        element.click()

    def key(self, key: str) -> None:
        assert f"`{key}`" in self.step()
        self.page.keyboard.press(key)

    def choose(self, element: Any, label: str) -> None:
        assert f": {label}" in self.named(element)
        element.select_option(label=label)

    def type(self, element: Any, text: str) -> None:
        assert f": {text}" in self.named(element)
        element.fill(text)

    def done(self) -> None:
        assert self.count == len(self.steps) <= MOST_CLICKS
