"""Messages of queues, and deliveries of topics."""

from alembic import op

revision = "0003"
down_revision = "0002"

TABLES = (
    """
    CREATE TABLE messages (
        number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
        id VARCHAR(36) NOT NULL,
        queue_uid INTEGER NOT NULL,
        body TEXT NOT NULL,
        attributes TEXT NOT NULL,
        sender VARCHAR(2048) NOT NULL,
        sent_us BIGINT NOT NULL,
        visible_us BIGINT NOT NULL,
        expires_us BIGINT NOT NULL,
        first_received_us BIGINT NOT NULL,
        receives INTEGER NOT NULL,
        receipt VARCHAR(32) NOT NULL,
        source_arn VARCHAR(2048) NOT NULL
    )
    """,
    "CREATE INDEX messages_by_queue ON messages (queue_uid, visible_us)",
    """
    CREATE TABLE deliveries (
        number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
        message_id VARCHAR(36) NOT NULL,
        subscription_uid INTEGER NOT NULL,
        body TEXT NOT NULL,
        attributes TEXT NOT NULL,
        attempts INTEGER NOT NULL,
        due_us BIGINT NOT NULL,
        done INTEGER NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX deliveries_by_message ON deliveries (message_id, subscription_uid)",
    "CREATE INDEX deliveries_by_time ON deliveries (done, due_us)",
)


def upgrade() -> None:
    for statement in TABLES:
        op.execute(statement)
