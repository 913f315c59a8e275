"""The registry of container images."""

from alembic import op

revision = "0005"
down_revision = "0004"

TABLES = (
    """
    CREATE TABLE registry_images (
        repository INTEGER NOT NULL,
        digest VARCHAR(71) NOT NULL,
        media_type VARCHAR(255) NOT NULL,
        artifact_type VARCHAR(255) NOT NULL,
        body BLOB NOT NULL,
        size_bytes BIGINT NOT NULL,
        pushed_us BIGINT NOT NULL,
        PRIMARY KEY (repository, digest)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE registry_tags (
        repository INTEGER NOT NULL,
        tag VARCHAR(128) NOT NULL,
        digest VARCHAR(71) NOT NULL,
        PRIMARY KEY (repository, tag)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX registry_tags_by_digest ON registry_tags (repository, digest)",
    """
    CREATE TABLE registry_layers (
        repository INTEGER NOT NULL,
        digest VARCHAR(71) NOT NULL,
        size_bytes BIGINT NOT NULL,
        added_us BIGINT NOT NULL,
        PRIMARY KEY (repository, digest)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX registry_layers_by_digest ON registry_layers (digest)",
    """
    CREATE TABLE registry_references (
        repository INTEGER NOT NULL,
        image VARCHAR(71) NOT NULL,
        target VARCHAR(71) NOT NULL,
        PRIMARY KEY (repository, image, target)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX registry_references_by_target ON registry_references (repository, target)",
)


def upgrade() -> None:
    for statement in TABLES:
        op.execute(statement)
