"""What a run depends on, as it was when the run started."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("run", sa.Column("inputs", sa.JSON()))
