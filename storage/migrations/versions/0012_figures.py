"""A run's figures in short: last, lowest and highest value of each, with its row."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

RUN = sa.table("run", sa.column("id", sa.String), sa.column("figures", sa.JSON))
STEP = sa.table(
    "step",
    sa.column("run_id", sa.String),
    sa.column("step", sa.BigInteger),
    sa.column("metrics", sa.JSON),
    sa.column("seconds", sa.JSON),
)
EVALUATION = sa.table(
    "evaluation",
    sa.column("run_id", sa.String),
    sa.column("step", sa.BigInteger),
    sa.column("number", sa.BigInteger),
    sa.column("suite", sa.Text),
    sa.column("metric", sa.Text),
    sa.column("value", sa.Float),
)


def upgrade() -> None:
    op.add_column(
        "run", sa.Column("figures", sa.JSON(), nullable=False, server_default=sa.text("'{}'"))
    )
    connection = op.get_bind()
    for run_id in connection.scalars(sa.select(RUN.c.id)).all():
        if figures := _figures(connection, run_id):
            connection.execute(sa.update(RUN).where(RUN.c.id == run_id).values(figures=figures))


def _figures(connection: sa.Connection, run_id: str) -> dict[str, list[Any]]:
    figures: dict[str, list[Any]] = {}
    steps = sa.select(STEP).where(STEP.c.run_id == run_id).order_by(STEP.c.step)
    for row in connection.execute(steps):
        seconds = {f"seconds_{phase}": value for phase, value in row.seconds.items()}
        _add(figures, {**row.metrics, **seconds})
    order = (EVALUATION.c.step, EVALUATION.c.number)
    scores = sa.select(EVALUATION).where(EVALUATION.c.run_id == run_id).order_by(*order)
    for row in connection.execute(scores):
        _add(figures, {f"eval/{row.suite}/{row.metric}": row.value})
    return figures


def _add(figures: dict[str, list[Any]], values: dict[str, float | None]) -> None:
    for name, value in values.items():
        numbers = [v for v in (*figures.get(name, (None,))[1:], value) if v is not None]
        figures[name] = [value, min(numbers, default=None), max(numbers, default=None)]
