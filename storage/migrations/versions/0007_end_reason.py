"""Why a run finished before its last step."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column(
        "run", sa.Column("end_reason", sa.Text(), nullable=False, server_default=sa.text("''"))
    )
