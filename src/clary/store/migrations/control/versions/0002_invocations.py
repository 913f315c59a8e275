"""The queue of asynchronous inference."""

from alembic import op

revision = "0002"
down_revision = "0001"

TABLES = (
    """
    CREATE TABLE invocations (
        number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
        id VARCHAR(32) NOT NULL,
        endpoint_uid INTEGER NOT NULL,
        region VARCHAR(32) NOT NULL,
        endpoint VARCHAR(63) NOT NULL,
        config TEXT NOT NULL,
        inference_id VARCHAR(64) NOT NULL,
        input_uri VARCHAR(1024) NOT NULL,
        content_type VARCHAR(1024) NOT NULL,
        accept VARCHAR(1024) NOT NULL,
        custom_attributes VARCHAR(1024) NOT NULL,
        output_uri VARCHAR(2048) NOT NULL,
        failure_uri VARCHAR(2048) NOT NULL,
        received_us BIGINT NOT NULL,
        expires_us BIGINT NOT NULL,
        timeout_s INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        body BLOB NOT NULL,
        UNIQUE (id)
    )
    """,
    "CREATE INDEX invocations_by_endpoint ON invocations (endpoint_uid, number)",
)


def upgrade() -> None:
    for statement in TABLES:
        op.execute(statement)
