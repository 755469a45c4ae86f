"""Which token a teacher was shown in place of the student's stop id."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("rollout", sa.Column("teacher_end", sa.Text()))
