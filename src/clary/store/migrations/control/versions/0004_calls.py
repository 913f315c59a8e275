"""What triggers have yet to do."""

from alembic import op

revision = "0004"
down_revision = "0003"

TABLES = (
    """
    CREATE TABLE calls (
        number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
        id VARCHAR(36) NOT NULL,
        account VARCHAR(12) NOT NULL,
        region VARCHAR(32) NOT NULL,
        target VARCHAR(2048) NOT NULL,
        body TEXT NOT NULL,
        terms TEXT NOT NULL,
        attempts INTEGER NOT NULL,
        due_us BIGINT NOT NULL,
        created_us BIGINT NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX calls_by_id ON calls (id)",
    "CREATE INDEX calls_by_time ON calls (due_us)",
)


def upgrade() -> None:
    for statement in TABLES:
        op.execute(statement)
