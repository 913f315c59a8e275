"""The first tables of objects.db."""

from alembic import op
from sqlalchemy import BigInteger, Column, ForeignKey, Integer, LargeBinary, Text

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "bucket",
        Column("name", Text, primary_key=True),
        Column("region", Text, nullable=False),
        Column("owner", Text, nullable=False),
        Column("created_us", BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "bucket_document",
        Column("bucket", Text, ForeignKey("bucket.name", ondelete="CASCADE"), primary_key=True),
        Column("kind", Text, primary_key=True),
        Column("body", Text, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "content",
        Column("content_id", Text, primary_key=True),
        Column("size_bytes", BigInteger, nullable=False),
        Column("upload_id", Text),
        Column("parts", Text),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "extent",
        Column("content_id", Text, ForeignKey("content.content_id", ondelete="CASCADE"), primary_key=True),
        Column("position", Integer, primary_key=True),
        Column("blob_id", Text, nullable=False),
        Column("offset_bytes", BigInteger, nullable=False),
        Column("size_bytes", BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("extent_by_blob", "extent", ["blob_id"])
    op.create_table(
        "object",
        Column("bucket", Text, ForeignKey("bucket.name"), primary_key=True),
        Column("key", LargeBinary, primary_key=True),
        Column("content_id", Text, ForeignKey("content.content_id"), nullable=False),
        Column("size_bytes", BigInteger, nullable=False),
        Column("etag", Text, nullable=False),
        Column("modified_us", BigInteger, nullable=False),
        Column("storage_class", Text, nullable=False),
        Column("metadata", Text, nullable=False),
        Column("tags", Text, nullable=False),
        Column("checksum_algorithm", Text),
        Column("checksum_value", Text),
        Column("checksum_type", Text),
        Column("part_count", Integer),
        sqlite_with_rowid=False,
    )
    op.create_index("object_by_content", "object", ["content_id"])
    op.create_table(
        "upload",
        Column("upload_id", Text, primary_key=True),
        Column("bucket", Text, ForeignKey("bucket.name", ondelete="CASCADE"), nullable=False),
        Column("key", LargeBinary, nullable=False),
        Column("initiated_us", BigInteger, nullable=False),
        Column("storage_class", Text, nullable=False),
        Column("metadata", Text, nullable=False),
        Column("tags", Text, nullable=False),
        Column("checksum_algorithm", Text),
        Column("checksum_type", Text),
        sqlite_with_rowid=False,
    )
    op.create_index("upload_by_key", "upload", ["bucket", "key", "upload_id"])
    op.create_table(
        "part",
        Column("upload_id", Text, ForeignKey("upload.upload_id", ondelete="CASCADE"), primary_key=True),
        Column("number", Integer, primary_key=True),
        Column("content_id", Text, ForeignKey("content.content_id"), nullable=False),
        Column("size_bytes", BigInteger, nullable=False),
        Column("etag", Text, nullable=False),
        Column("modified_us", BigInteger, nullable=False),
        Column("checksum_algorithm", Text),
        Column("checksum_value", Text),
        sqlite_with_rowid=False,
    )
    op.create_index("part_by_content", "part", ["content_id"])
    op.create_table("doomed", Column("blob_id", Text, primary_key=True), sqlite_with_rowid=False)
    op.create_table(
        "session",
        Column("number", Integer, primary_key=True),
        Column("swept", Integer, nullable=False),
    )
