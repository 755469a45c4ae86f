"""How often a run's name, notes or tags have been changed, so that nobody undoes another's edit."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    one = sa.text("1")
    op.add_column("run", sa.Column("version", sa.Integer(), nullable=False, server_default=one))
