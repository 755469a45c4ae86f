"""The token view as a component, for anybody's `gr.Blocks` and for notebooks.

One iframe holds a report of the one rollout: the page's own scripts, and nothing that is fetched.
"""

import html
import tempfile
from pathlib import Path
from typing import Any

import gradio as gr
import orjson
from gradio.component_meta import ComponentMeta, updateable

from app.report import report
from opd.config.run import parse
from opd.errors import UserError
from opd.interchange.jsonl import rollouts_of
from storage.engine import open_database
from storage.queue import jobs
from storage.read.rollouts import read_rollouts
from storage.write.imports import import_rollouts

HEIGHTS = (200, 4000)  # pixels
JSON = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


class WithoutStub(ComponentMeta):
    """Gradio's own metaclass writes a stub file beside the module; this package stays as it is."""

    def __new__(cls, name: str, bases: tuple[type, ...], attributes: dict[str, Any]) -> Any:
        attributes["__init__"] = updateable(attributes["__init__"])  # type: ignore[no-untyped-call]
        return super(ComponentMeta, cls).__new__(cls, name, bases, attributes)


class TokenHeatmap(gr.HTML, metaclass=WithoutStub):
    """A rollout's tokens, tinted by how far student and teacher disagree.

    Its value is a rollout as `opd export`, `opd.load(run).record(…)` and the endpoint
    `rollout_tokens` give it, or a dict with as much of it as there is: `completion_tokens` or
    `completion_token_ids`, `student_logprobs`, `teacher_logprobs` … Lists and arrays are taken.
    """

    def __init__(
        self, value: dict[str, Any] | None = None, *, height: int = 640, **options: Any
    ) -> None:
        """`height` in pixels; `options` are those of gr.HTML. Raises UserError."""
        if not HEIGHTS[0] <= height <= HEIGHTS[1]:
            raise UserError(
                f"must be {HEIGHTS[0]} to {HEIGHTS[1]} pixels (got {height})", where="height"
            )
        self.height = height
        super().__init__(value, js_on_load=None, **options)

    def get_block_name(self) -> str:
        """Drawn by Gradio as what it is derived from."""
        return "html"

    def postprocess(self, value: dict[str, Any] | str | None) -> str | None:
        """The iframe; what is one already stays."""
        return _frame(value, self.height) if isinstance(value, dict) else value

    def _repr_html_(self) -> str:
        return str(self.value or "")


def _frame(row: dict[str, Any], height: int) -> str:
    """Sandboxed: its scripts reach neither the page around it nor what that may do."""
    return (
        f'<iframe sandbox="allow-scripts" title="Token heatmap" '
        f'style="width:100%;height:{height}px;border:0" '
        f'srcdoc="{html.escape(_document(row))}"></iframe>'
    )


def _document(row: dict[str, Any]) -> str:
    """The report of a run that is this rollout only. Raises UserError naming the field."""
    try:
        plain = orjson.loads(orjson.dumps(row, option=JSON))
    except orjson.JSONEncodeError as error:
        raise UserError(f"is not data: {error}", where="rollout") from None
    texts: dict[int, bytes] = {}
    [rollout] = rollouts_of([(1, plain)], "rollout", "record", texts)
    models = {"student": "imported", "teacher": "imported"}
    config = parse(models | {"name": "rollout", "sampling": {"temperature": rollout.temperature}})
    with tempfile.TemporaryDirectory() as folder:
        engine = open_database(Path(folder))
        try:
            run_id = jobs.create_run(engine, config, source="import")
            import_rollouts(
                engine,
                run_id,
                [rollout],
                lambda ids: {i: (texts[i], False) for i in ids if i in texts},
            )
            return report(engine, read_rollouts(engine, run_id)["items"][0]["id"]).html
        finally:
            engine.dispose()
