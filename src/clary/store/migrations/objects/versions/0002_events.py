"""Changes of objects that are still to be told."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE event (
            number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
            kind TEXT NOT NULL,
            bucket TEXT NOT NULL,
            region TEXT NOT NULL,
            key BLOB NOT NULL,
            size_bytes BIGINT NOT NULL,
            etag TEXT NOT NULL,
            at_us BIGINT NOT NULL,
            rules TEXT NOT NULL
        )
        """
    )
