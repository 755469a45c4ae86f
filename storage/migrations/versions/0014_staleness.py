"""Updates between the weights that wrote a rollout and those that it trained."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.add_column("rollout", sa.Column("staleness", sa.BigInteger()))
