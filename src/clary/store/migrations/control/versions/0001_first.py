"""The first tables of the control database."""

from alembic import op

revision = "0001"
down_revision = None

TABLES = (
    """
    CREATE TABLE deployments (
        number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
        resource_uid INTEGER NOT NULL
    )
    """,
    """
    CREATE TABLE identities (
        id INTEGER NOT NULL,
        kind VARCHAR(32) NOT NULL,
        name VARCHAR(128) NOT NULL,
        body TEXT NOT NULL,
        created_us BIGINT NOT NULL,
        PRIMARY KEY (id)
    )
    """,
    "CREATE UNIQUE INDEX identities_by_name ON identities (kind, name)",
    """
    CREATE TABLE ledger (
        id INTEGER NOT NULL,
        fleet VARCHAR(256) NOT NULL,
        region VARCHAR(32) NOT NULL,
        endpoint VARCHAR(63) NOT NULL,
        variant VARCHAR(63) NOT NULL,
        meter VARCHAR(32) NOT NULL,
        instance INTEGER NOT NULL,
        instance_type VARCHAR(64) NOT NULL,
        start_ns BIGINT NOT NULL,
        end_ns BIGINT NOT NULL,
        quantity BIGINT NOT NULL,
        nanousd BIGINT NOT NULL,
        price_source VARCHAR(256) NOT NULL,
        PRIMARY KEY (id)
    )
    """,
    "CREATE INDEX ledger_by_endpoint ON ledger (region, endpoint, start_ns)",
    "CREATE INDEX ledger_by_fleet ON ledger (fleet, meter, instance, end_ns)",
    """
    CREATE TABLE offsets (
        source VARCHAR(256) NOT NULL,
        position BIGINT NOT NULL,
        state TEXT DEFAULT '' NOT NULL,
        PRIMARY KEY (source)
    )
    """,
    """
    CREATE TABLE resources (
        uid INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
        kind VARCHAR(64) NOT NULL,
        account VARCHAR(12) NOT NULL,
        region VARCHAR(32) NOT NULL,
        name VARCHAR(256) NOT NULL,
        name_key VARCHAR(256) NOT NULL,
        desired TEXT NOT NULL,
        observed TEXT NOT NULL,
        created_us BIGINT NOT NULL,
        modified_us BIGINT NOT NULL,
        created_by VARCHAR(2048) DEFAULT '' NOT NULL,
        token VARCHAR(128) DEFAULT '' NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX resources_by_name ON resources (kind, account, region, name_key)",
    "CREATE INDEX resources_by_time ON resources (kind, account, region, created_us)",
    """
    CREATE TABLE series (
        id INTEGER NOT NULL,
        account VARCHAR(12) NOT NULL,
        region VARCHAR(32) NOT NULL,
        namespace VARCHAR(255) NOT NULL,
        name VARCHAR(255) NOT NULL,
        dimensions VARCHAR(4096) NOT NULL,
        unit VARCHAR(32) NOT NULL,
        PRIMARY KEY (id)
    )
    """,
    "CREATE UNIQUE INDEX series_by_name ON series (account, region, namespace, name, dimensions, unit)",
    """
    CREATE TABLE samples (
        series_id INTEGER NOT NULL,
        at_s BIGINT NOT NULL,
        count DOUBLE NOT NULL,
        total DOUBLE NOT NULL,
        smallest DOUBLE NOT NULL,
        largest DOUBLE NOT NULL,
        histogram BLOB,
        PRIMARY KEY (series_id, at_s),
        FOREIGN KEY(series_id) REFERENCES series (id)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE tags (
        arn VARCHAR(2048) NOT NULL,
        "key" VARCHAR(128) NOT NULL,
        value VARCHAR(256) NOT NULL,
        PRIMARY KEY (arn, "key")
    )
    """,
    """
    CREATE TABLE worker_uids (
        uid INTEGER NOT NULL,
        resource_uid INTEGER NOT NULL,
        PRIMARY KEY (uid),
        UNIQUE (resource_uid)
    )
    """,
    """
    CREATE TABLE access_keys (
        access_key_id VARCHAR(128) NOT NULL,
        identity_id INTEGER NOT NULL,
        secret TEXT NOT NULL,
        active INTEGER DEFAULT '1' NOT NULL,
        session_token TEXT,
        expires_us BIGINT,
        created_us BIGINT NOT NULL,
        PRIMARY KEY (access_key_id),
        FOREIGN KEY(identity_id) REFERENCES identities (id) ON DELETE CASCADE
    )
    """,
)


def upgrade() -> None:
    for statement in TABLES:
        op.execute(statement)
