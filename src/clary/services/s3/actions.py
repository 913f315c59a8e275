"""What a caller must be allowed to do for an S3 call that another S3 answers: IAM's actions, operation by operation.

The rooms of our own store ask the same, but for versions, locks and lists, which an external store may have. Operations
that are not named here are not passed on. Bucket policies are missing on purpose: those of the external store speak of
its own users, of whom it only ever sees one, clary.
Source: service authorization reference, "Actions, resources, and condition keys for Amazon S3".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from urllib.parse import unquote

from clary.domain.errors import Unsupported
from clary.domain.names import partition
from clary.services.base import Members

LIST_BUCKETS = "ListBuckets"
OF_BUCKETS: Mapping[str, str] = {
    "CreateBucket": "CreateBucket",
    "DeleteBucket": "DeleteBucket",
    "DeleteBucketCors": "PutBucketCORS",
    "DeleteBucketEncryption": "PutEncryptionConfiguration",
    "DeleteBucketLifecycle": "PutLifecycleConfiguration",
    "DeleteBucketTagging": "PutBucketTagging",
    "GetBucketAcl": "GetBucketAcl",
    "GetBucketCors": "GetBucketCORS",
    "GetBucketEncryption": "GetEncryptionConfiguration",
    "GetBucketLifecycleConfiguration": "GetLifecycleConfiguration",
    "GetBucketLocation": "GetBucketLocation",
    "GetBucketNotificationConfiguration": "GetBucketNotification",
    "GetBucketOwnershipControls": "GetBucketOwnershipControls",
    "GetBucketPolicy": "GetBucketPolicy",
    "GetBucketPolicyStatus": "GetBucketPolicyStatus",
    "GetBucketReplication": "GetReplicationConfiguration",
    "GetBucketTagging": "GetBucketTagging",
    "GetBucketVersioning": "GetBucketVersioning",
    "GetBucketWebsite": "GetBucketWebsite",
    "GetObjectLockConfiguration": "GetBucketObjectLockConfiguration",
    "GetPublicAccessBlock": "GetBucketPublicAccessBlock",
    "HeadBucket": "ListBucket",
    "ListMultipartUploads": "ListBucketMultipartUploads",
    "ListObjectVersions": "ListBucketVersions",
    "ListObjects": "ListBucket",
    "ListObjectsV2": "ListBucket",
    "PutBucketAcl": "PutBucketAcl",
    "PutBucketCors": "PutBucketCORS",
    "PutBucketEncryption": "PutEncryptionConfiguration",
    "PutBucketLifecycleConfiguration": "PutLifecycleConfiguration",
    "PutBucketTagging": "PutBucketTagging",
    "PutBucketVersioning": "PutBucketVersioning",
    "PutObjectLockConfiguration": "PutBucketObjectLockConfiguration",
}
OF_OBJECTS: Mapping[str, tuple[str, ...]] = {
    "AbortMultipartUpload": ("AbortMultipartUpload",),
    "CompleteMultipartUpload": ("PutObject",),
    "CopyObject": ("PutObject",),
    "CreateMultipartUpload": ("PutObject",),
    "DeleteObject": ("DeleteObject",),
    "DeleteObjectTagging": ("DeleteObjectTagging",),
    "GetObject": ("GetObject",),
    "GetObjectAcl": ("GetObjectAcl",),
    "GetObjectAttributes": ("GetObject", "GetObjectAttributes"),
    "GetObjectLegalHold": ("GetObjectLegalHold",),
    "GetObjectRetention": ("GetObjectRetention",),
    "GetObjectTagging": ("GetObjectTagging",),
    "HeadObject": ("GetObject",),
    "ListParts": ("ListMultipartUploadParts",),
    "PutObject": ("PutObject",),
    "PutObjectAcl": ("PutObjectAcl",),
    "PutObjectLegalHold": ("PutObjectLegalHold",),
    "PutObjectRetention": ("PutObjectRetention",),
    "PutObjectTagging": ("PutObjectTagging",),
    "UploadPart": ("PutObject",),
    "UploadPartCopy": ("PutObject",),
}
DELETE_OBJECTS = "DeleteObjects"
# The action for one version of an object, where it is another one.
_OF_VERSION = {
    "DeleteObject": "DeleteObjectVersion",
    "DeleteObjectTagging": "DeleteObjectVersionTagging",
    "GetObject": "GetObjectVersion",
    "GetObjectAcl": "GetObjectVersionAcl",
    "GetObjectAttributes": "GetObjectVersionAttributes",
    "GetObjectTagging": "GetObjectVersionTagging",
    "PutObjectAcl": "PutObjectVersionAcl",
    "PutObjectTagging": "PutObjectVersionTagging",
}
# Members of a request that writes, and what they need besides.
_BESIDES = {
    "ACL": "PutObjectAcl",
    "BypassGovernanceRetention": "BypassGovernanceRetention",
    "GrantFullControl": "PutObjectAcl",
    "GrantRead": "PutObjectAcl",
    "GrantReadACP": "PutObjectAcl",
    "GrantWriteACP": "PutObjectAcl",
    "ObjectLockLegalHoldStatus": "PutObjectLegalHold",
    "ObjectLockMode": "PutObjectRetention",
    "ObjectLockRetainUntilDate": "PutObjectRetention",
}
_OWN_STORE_ONLY = {
    "PutBucketNotificationConfiguration": "clary hears of changes in its own object store only: start the job from a "
    "schedule, or let the external store notify by its own means",
}


def needed(operation: str, params: Members, region: str) -> Iterator[tuple[str, str]]:
    """(action, ARN) of everything that a call asks for. Raises: Unsupported for one that is not passed on."""
    if operation == LIST_BUCKETS:
        yield "s3:ListAllMyBuckets", f"arn:{partition(region)}:s3:::*"
    elif operation in OF_BUCKETS:
        yield f"s3:{OF_BUCKETS[operation]}", _arn(region, params["Bucket"])
    elif operation == DELETE_OBJECTS:
        for one in params["Delete"].get("Objects") or ():
            place = _arn(region, params["Bucket"], one["Key"])
            yield f"s3:{_versioned('DeleteObject', one.get('VersionId'))}", place
            if params.get("BypassGovernanceRetention"):
                yield "s3:BypassGovernanceRetention", place
    elif operation in OF_OBJECTS:
        yield from _of_object(operation, params, region)
    else:
        why = _OWN_STORE_ONLY.get(operation, "it is not among the operations that are passed on")
        raise Unsupported(f"{operation} with an external object store (s3_endpoint_url)", why)


def _of_object(operation: str, params: Members, region: str) -> Iterator[tuple[str, str]]:
    place = _arn(region, params["Bucket"], params["Key"])
    for action in OF_OBJECTS[operation]:
        yield f"s3:{_versioned(action, params.get('VersionId'))}", place
    if "PutObject" in OF_OBJECTS[operation]:
        for member, action in _BESIDES.items():
            if params.get(member):
                yield f"s3:{action}", place
        if params.get("Tagging") and params.get("TaggingDirective", "REPLACE") == "REPLACE":
            yield "s3:PutObjectTagging", place
    elif params.get("BypassGovernanceRetention"):
        yield "s3:BypassGovernanceRetention", place
    if (source := params.get("CopySource")) is not None:
        path, _, version = str(source).partition("?versionId=")
        bucket, _, key = unquote(path).removeprefix("/").partition("/")
        yield f"s3:{_versioned('GetObject', version or None)}", _arn(region, bucket, key)


def _versioned(action: str, version: str | None) -> str:
    return action if version is None else _OF_VERSION.get(action, action)


def _arn(region: str, bucket: str, key: str | None = None) -> str:
    of_bucket = f"arn:{partition(region)}:s3:::{bucket}"
    return of_bucket if key is None else f"{of_bucket}/{key}"
