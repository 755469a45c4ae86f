"""Several hosts and people: whose devices a run's slots are, who started, cancelled and resumed it,
and the hosts that run jobs."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"

RUN = sa.table("run", sa.column("pool", sa.Text), sa.column("owner_boot", sa.Text))
BY = (
    *(("run", name) for name in ("started_by", "cancel_by", "resumed_by")),
    ("experiment", "started_by"),
)
RUNNING = sa.text("status = 'running'")
SORTED = ("kl_sum", "kl_mean", "kl_max", "log_ratio_sum", "reward")


def upgrade() -> None:
    empty = sa.text("''")
    op.add_column("run", sa.Column("pool", sa.Text()))
    for table, name in BY:
        op.add_column(table, sa.Column(name, sa.Text(), nullable=False, server_default=empty))
    op.add_column("run", sa.Column("cluster_job", sa.Text()))
    op.execute(sa.update(RUN).values(pool=RUN.c.owner_boot))
    op.drop_index("uq_run_slot_while_running", "run")
    op.create_index(
        "uq_run_pool_slot_while_running",
        "run",
        ["pool", "slot"],
        unique=True,
        sqlite_where=RUNNING,
        postgresql_where=RUNNING,
    )
    op.create_table(
        "host",
        sa.Column("boot", sa.String(64), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("devices", sa.JSON(), nullable=False),
        sa.Column("seen_at", sa.Float(), nullable=False),
        sa.Column("ahead", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("boot", name="pk_host"),
    )
    if op.get_bind().dialect.name == "postgresql":
        _keep_records_together()
        _order_as_lists_do()


def _keep_records_together() -> None:
    """Short columns of a token record stay in its row, and none is compressed: they are packed."""
    op.execute("ALTER TABLE token_record SET (toast_tuple_target = 8160)")
    blobs = [c["name"] for c in sa.inspect(op.get_bind()).get_columns("token_record")]
    for name in blobs:
        if name not in ("rollout_id", "version"):
            op.execute(f"ALTER TABLE token_record ALTER COLUMN {name} SET STORAGE EXTERNAL")


def _order_as_lists_do() -> None:
    """Lists of rollouts begin with the highest value, and end with those that have none; SQLite
    reads the index of before backwards for that."""
    for name in SORTED:
        op.drop_index(f"ix_rollout_run_id_{name}", "rollout")
        last: sa.ColumnElement[Any] = sa.column(name).desc().nulls_last()
        op.create_index(f"ix_rollout_run_id_{name}", "rollout", ["run_id", last])
