"""Of each of a run's evaluations: prompts asked for, used, and why fewer."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.add_column("run", sa.Column("evaluation_prompts", sa.JSON()))
