"""Marks: notes that people put on rollouts and on tokens."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.create_table(
        "mark",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("run_id", sa.String(32), nullable=False),
        sa.Column("rollout_id", sa.String(96), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("completion", sa.String(32), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("changed_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], "fk_mark_run_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_mark"),
        sa.UniqueConstraint("rollout_id", "position", name="uq_mark_rollout_id_position"),
    )
    op.create_index("ix_mark_run_id", "mark", ["run_id"])
