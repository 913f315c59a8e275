"""The tables of the control database. A change here comes with a migration in `migrations/control` and a new SCHEMA."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

SCHEMA = 5

metadata = MetaData()

# AUTOINCREMENT: a uid is never used again, not even that of a deleted row; deployments take theirs from here too.
resources = Table(
    "resources",
    metadata,
    Column("uid", Integer, primary_key=True, autoincrement=True),
    Column("kind", String(64), nullable=False),
    Column("account", String(12), nullable=False),
    Column("region", String(32), nullable=False),
    Column("name", String(256), nullable=False),
    Column("name_key", String(256), nullable=False),  # lower case: names are unique without regard to case
    Column("desired", Text, nullable=False),
    Column("observed", Text, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("modified_us", BigInteger, nullable=False),
    Column("created_by", String(2048), nullable=False, server_default=""),
    Column("token", String(128), nullable=False, server_default=""),  # the client's invocation id of its create
    Index("resources_by_name", "kind", "account", "region", "name_key", unique=True),
    Index("resources_by_time", "kind", "account", "region", "created_us"),
    sqlite_autoincrement=True,
)

deployments = Table(
    "deployments",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("resource_uid", Integer, nullable=False),
    sqlite_autoincrement=True,
)

tags = Table(
    "tags",
    metadata,
    Column("arn", String(2048), primary_key=True),
    Column("key", String(128), primary_key=True),
    Column("value", String(256), nullable=False),
)

users_of_uids = Table(
    "worker_uids",
    metadata,
    Column("uid", Integer, primary_key=True),
    Column("resource_uid", Integer, nullable=False, unique=True),
)

offsets = Table(
    "offsets",
    metadata,
    Column("source", String(256), primary_key=True),  # "journal", or "fleet:" and a fleet's name
    Column("position", BigInteger, nullable=False),
    Column("state", Text, nullable=False, server_default=""),
)

# The queue of asynchronous inference: a row waits, or is being worked on, until its outcome is published and told.
invocations = Table(
    "invocations",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("id", String(32), nullable=False, unique=True),
    Column("endpoint_uid", Integer, nullable=False),
    Column("region", String(32), nullable=False),
    Column("endpoint", String(63), nullable=False),
    Column("config", Text, nullable=False),  # AsyncConfig
    Column("inference_id", String(64), nullable=False),
    Column("input_uri", String(1024), nullable=False),
    Column("content_type", String(1024), nullable=False),
    Column("accept", String(1024), nullable=False),
    Column("custom_attributes", String(1024), nullable=False),
    Column("output_uri", String(2048), nullable=False),
    Column("failure_uri", String(2048), nullable=False),
    Column("received_us", BigInteger, nullable=False),
    Column("expires_us", BigInteger, nullable=False),
    Column("timeout_s", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("invocations_by_endpoint", "endpoint_uid", "number"),
    sqlite_autoincrement=True,
)

# Messages of SQS queues. A queue is a resource; who receives a message hides it for a while under a new receipt.
messages = Table(
    "messages",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("id", String(36), nullable=False),
    Column("queue_uid", Integer, nullable=False),
    Column("body", Text, nullable=False),
    Column("attributes", Text, nullable=False),
    Column("sender", String(2048), nullable=False),
    Column("sent_us", BigInteger, nullable=False),
    Column("visible_us", BigInteger, nullable=False),
    Column("expires_us", BigInteger, nullable=False),
    Column("first_received_us", BigInteger, nullable=False),
    Column("receives", Integer, nullable=False),
    Column("receipt", String(32), nullable=False),
    Column("source_arn", String(2048), nullable=False),  # of the queue that it was redriven from
    Index("messages_by_queue", "queue_uid", "visible_us"),
    sqlite_autoincrement=True,
)

# What SNS has yet to deliver, and for a while what it has delivered, so that the same message goes out once.
deliveries = Table(
    "deliveries",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("message_id", String(36), nullable=False),
    Column("subscription_uid", Integer, nullable=False),
    Column("body", Text, nullable=False),
    Column("attributes", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_us", BigInteger, nullable=False),
    Column("done", Integer, nullable=False),
    Index("deliveries_by_message", "message_id", "subscription_uid", unique=True),
    Index("deliveries_by_time", "done", "due_us"),
    sqlite_autoincrement=True,
)

# What is still to be done for a trigger: a function invoked, a queue or a topic told, an operation called.
calls = Table(
    "calls",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("id", String(36), nullable=False),
    Column("account", String(12), nullable=False),
    Column("region", String(32), nullable=False),
    Column("target", String(2048), nullable=False),  # an ARN
    Column("body", Text, nullable=False),
    Column("terms", Text, nullable=False),  # by whose rights, how often, and what then: JSON
    Column("attempts", Integer, nullable=False),
    Column("due_us", BigInteger, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Index("calls_by_id", "id", unique=True),
    Index("calls_by_time", "due_us"),
    sqlite_autoincrement=True,
)

ledger = Table(
    "ledger",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("fleet", String(256), nullable=False),
    Column("region", String(32), nullable=False),
    Column("endpoint", String(63), nullable=False),
    Column("variant", String(63), nullable=False),
    Column("meter", String(32), nullable=False),
    Column("instance", Integer, nullable=False),
    Column("instance_type", String(64), nullable=False),
    Column("start_ns", BigInteger, nullable=False),
    Column("end_ns", BigInteger, nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Column("nanousd", BigInteger, nullable=False),
    Column("price_source", String(256), nullable=False),
    Index("ledger_by_endpoint", "region", "endpoint", "start_ns"),
    Index("ledger_by_fleet", "fleet", "meter", "instance", "end_ns"),
)

series = Table(
    "series",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("account", String(12), nullable=False),
    Column("region", String(32), nullable=False),
    Column("namespace", String(255), nullable=False),
    Column("name", String(255), nullable=False),
    Column("dimensions", String(4096), nullable=False),  # JSON pairs, sorted
    Column("unit", String(32), nullable=False),
    Index("series_by_name", "account", "region", "namespace", "name", "dimensions", "unit", unique=True),
)

samples = Table(
    "samples",
    metadata,
    Column("series_id", Integer, ForeignKey("series.id"), primary_key=True),
    Column("at_s", BigInteger, primary_key=True, autoincrement=False),  # start of the minute, or of the second
    Column("count", Double, nullable=False),
    Column("total", Double, nullable=False),
    Column("smallest", Double, nullable=False),
    Column("largest", Double, nullable=False),
    Column("histogram", LargeBinary),
    sqlite_with_rowid=False,
)

identities = Table(
    "identities",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("kind", String(32), nullable=False),  # user, role, policy
    Column("name", String(128), nullable=False),
    Column("body", Text, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Index("identities_by_name", "kind", "name", unique=True),
)

access_keys = Table(
    "access_keys",
    metadata,
    Column("access_key_id", String(128), primary_key=True),
    Column("identity_id", Integer, ForeignKey("identities.id", ondelete="CASCADE"), nullable=False),
    Column("secret", Text, nullable=False),  # encrypted with the key file
    Column("active", Integer, nullable=False, server_default="1"),
    Column("session_token", Text),
    Column("expires_us", BigInteger),
    Column("created_us", BigInteger, nullable=False),
)

# The images of our own registry, a row each in its repository (a resource's uid).
registry_images = Table(
    "registry_images",
    metadata,
    Column("repository", Integer, primary_key=True, autoincrement=False),
    Column("digest", String(71), primary_key=True),
    Column("media_type", String(255), nullable=False),
    Column("artifact_type", String(255), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("pushed_us", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

registry_tags = Table(
    "registry_tags",
    metadata,
    Column("repository", Integer, primary_key=True, autoincrement=False),
    Column("tag", String(128), primary_key=True),
    Column("digest", String(71), nullable=False),
    Index("registry_tags_by_digest", "repository", "digest"),
    sqlite_with_rowid=False,
)

# Blobs that a repository may hand out; the bytes are there once, however many repositories name them.
registry_layers = Table(
    "registry_layers",
    metadata,
    Column("repository", Integer, primary_key=True, autoincrement=False),
    Column("digest", String(71), primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("added_us", BigInteger, nullable=False),
    Index("registry_layers_by_digest", "digest"),
    sqlite_with_rowid=False,
)

# What a manifest names: blobs, or the manifests of an index.
registry_references = Table(
    "registry_references",
    metadata,
    Column("repository", Integer, primary_key=True, autoincrement=False),
    Column("image", String(71), primary_key=True),
    Column("target", String(71), primary_key=True),
    Index("registry_references_by_target", "repository", "target"),
    sqlite_with_rowid=False,
)
