"""Experiments, and which runs they are made of."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "experiment",
        sa.Column("id", sa.String(32), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("name", "title")),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("quick", sa.Boolean(), nullable=False),
        sa.Column("seeds", sa.BigInteger(), nullable=False),
        sa.Column("definition", sa.JSON(), nullable=False),
        sa.Column("request_key", sa.Text()),
        sa.Column("error_text", sa.Text(), nullable=False),
        sa.Column("owner_pid", sa.BigInteger()),
        sa.Column("owner_started", sa.Float()),
        sa.Column("owner_boot", sa.Text()),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("finished_at", sa.Float()),
        sa.PrimaryKeyConstraint("id", name="pk_experiment"),
        sa.UniqueConstraint("request_key", name="uq_experiment_request_key"),
    )
    op.create_index("ix_experiment_status", "experiment", ["status"])
    op.create_table(
        "experiment_run",
        sa.Column("experiment_id", sa.String(32), nullable=False),
        sa.Column("stage", sa.String(8), nullable=False),
        sa.Column("arm", sa.String(40), nullable=False),
        sa.Column("choice", sa.BigInteger(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.String(32), nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment_id"],
            ["experiment.id"],
            "fk_experiment_run_experiment_id",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["run_id"], ["run.id"], "fk_experiment_run_run_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint(
            "experiment_id", "stage", "arm", "choice", "seed", name="pk_experiment_run"
        ),
    )
    op.create_index("ix_experiment_run_run_id", "experiment_run", ["run_id"])
