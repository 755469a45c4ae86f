"""Who wrote a completion."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    author = sa.Column("author", sa.String(16), nullable=False, server_default="student")
    op.add_column("rollout", author)
