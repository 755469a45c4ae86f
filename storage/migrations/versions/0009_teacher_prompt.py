"""Which teacher judged a rollout and what it read; the data row that a prompt is of."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_table(
        "teacher_prompt",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("run_id", sa.String(32), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["run.id"], "fk_teacher_prompt_run_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_teacher_prompt"),
    )
    op.create_index("ix_teacher_prompt_run_id", "teacher_prompt", ["run_id"])
    op.add_column("rollout", sa.Column("teacher", sa.Text()))
    op.add_column("rollout", sa.Column("teacher_prompt_id", sa.String(64)))
    op.create_index("ix_rollout_run_id_teacher", "rollout", ["run_id", "teacher"])
    op.add_column("prompt", sa.Column("data_row", sa.JSON()))
