"""The tables of objects.db.

    bucket ──< object ──> content ──< extent      an object is a name for a content; a content is a row of extents,
    bucket ──< upload ──< part ──> content        each a stretch of one immutable file (a "blob")

Copying shares the content; completing an upload makes a content of the parts' extents. So neither moves a byte, and a
blob is garbage exactly when no extent names it: it then goes to `doomed` in the same transaction, and its file after
the commit. Keys are bytes (UTF-8), because S3 sorts by them and because text with a NUL is no good text in SQLite.

`session` numbers the openings of the store. A blob's folder bears the number of the session that wrote it, so that the
search for files which never reached the index looks only at sessions that ended without being swept.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, LargeBinary, MetaData, Table, Text

SCHEMA = MetaData()
# The migration that this code needs; objects.db carries the number in PRAGMA user_version.
SCHEMA_VERSION = 2

bucket = Table(
    "bucket",
    SCHEMA,
    Column("name", Text, primary_key=True),
    Column("region", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

bucket_document = Table(
    "bucket_document",
    SCHEMA,
    Column("bucket", Text, ForeignKey("bucket.name", ondelete="CASCADE"), primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("body", Text, nullable=False),
    sqlite_with_rowid=False,
)

content = Table(
    "content",
    SCHEMA,
    Column("content_id", Text, primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("upload_id", Text),  # the upload that it was completed from, so that a repeated Complete finds it
    Column("parts", Text),  # JSON [[number, size, etag, checksum value or null], ...] when it was multipart
    sqlite_with_rowid=False,
)

extent = Table(
    "extent",
    SCHEMA,
    Column("content_id", Text, ForeignKey("content.content_id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("blob_id", Text, nullable=False),
    Column("offset_bytes", BigInteger, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Index("extent_by_blob", "blob_id"),
    sqlite_with_rowid=False,
)

object_ = Table(
    "object",
    SCHEMA,
    Column("bucket", Text, ForeignKey("bucket.name"), primary_key=True),
    Column("key", LargeBinary, primary_key=True),
    Column("content_id", Text, ForeignKey("content.content_id"), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("etag", Text, nullable=False),
    Column("modified_us", BigInteger, nullable=False),
    Column("storage_class", Text, nullable=False),
    Column("metadata", Text, nullable=False),  # JSON {"system": {}, "user": {}}
    Column("tags", Text, nullable=False),  # JSON {}
    Column("checksum_algorithm", Text),
    Column("checksum_value", Text),
    Column("checksum_type", Text),
    Column("part_count", Integer),
    Index("object_by_content", "content_id"),
    sqlite_with_rowid=False,
)

upload = Table(
    "upload",
    SCHEMA,
    Column("upload_id", Text, primary_key=True),
    Column("bucket", Text, ForeignKey("bucket.name", ondelete="CASCADE"), nullable=False),
    Column("key", LargeBinary, nullable=False),
    Column("initiated_us", BigInteger, nullable=False),
    Column("storage_class", Text, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("tags", Text, nullable=False),
    Column("checksum_algorithm", Text),
    Column("checksum_type", Text),
    Index("upload_by_key", "bucket", "key", "upload_id"),
    sqlite_with_rowid=False,
)

part = Table(
    "part",
    SCHEMA,
    Column("upload_id", Text, ForeignKey("upload.upload_id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("content_id", Text, ForeignKey("content.content_id"), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("etag", Text, nullable=False),
    Column("modified_us", BigInteger, nullable=False),
    Column("checksum_algorithm", Text),
    Column("checksum_value", Text),
    Index("part_by_content", "content_id"),
    sqlite_with_rowid=False,
)

# What is still to be told of buckets with a notification configuration; written with the change itself.
event = Table(
    "event",
    SCHEMA,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("kind", Text, nullable=False),  # "ObjectCreated:Put"
    Column("bucket", Text, nullable=False),
    Column("region", Text, nullable=False),
    Column("key", LargeBinary, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("etag", Text, nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("rules", Text, nullable=False),  # JSON [[configuration id, ARN or ""], ...] that it goes to
    sqlite_autoincrement=True,
)

doomed = Table("doomed", SCHEMA, Column("blob_id", Text, primary_key=True), sqlite_with_rowid=False)

session = Table(
    "session",
    SCHEMA,
    Column("number", Integer, primary_key=True),
    Column("swept", Integer, nullable=False),
)
