"""Where the process of an owner lives: its host, PID namespace and data directory."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    for table in ("run", "question", "experiment"):
        op.add_column(table, sa.Column("owner_place", sa.Text()))
