"""What S3's answers have that the service model does not say.

Names of root elements (AWS's Rust SDK checks them), the two answers whose root is not a structure's wrapper, the status
of part of an object, and the names that `encoding-type=url` percent-encodes.
Source: the syntax blocks of the S3 API reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

NAMESPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"

ROOTS: Final = {
    "ListBuckets": "ListAllMyBucketsResult",
    "ListDirectoryBuckets": "ListAllMyDirectoryBucketsResult",
    "ListObjects": "ListBucketResult",
    "ListObjectsV2": "ListBucketResult",
    "ListObjectVersions": "ListVersionsResult",
    "ListParts": "ListPartsResult",
    "ListMultipartUploads": "ListMultipartUploadsResult",
    "CreateMultipartUpload": "InitiateMultipartUploadResult",
    "CompleteMultipartUpload": "CompleteMultipartUploadResult",
    "CreateSession": "CreateSessionResult",
    "DeleteObjects": "DeleteResult",
    "GetBucketAccelerateConfiguration": "AccelerateConfiguration",
    "GetBucketAcl": "AccessControlPolicy",
    "GetBucketCors": "CORSConfiguration",
    "GetBucketLifecycle": "LifecycleConfiguration",
    "GetBucketLifecycleConfiguration": "LifecycleConfiguration",
    "GetBucketLogging": "BucketLoggingStatus",
    "GetBucketRequestPayment": "RequestPaymentConfiguration",
    "GetBucketTagging": "Tagging",
    "GetBucketVersioning": "VersioningConfiguration",
    "GetBucketWebsite": "WebsiteConfiguration",
    "GetObjectAcl": "AccessControlPolicy",
    "GetObjectAttributes": "GetObjectAttributesResponse",
    "GetObjectTagging": "Tagging",
    "ListBucketAnalyticsConfigurations": "ListBucketAnalyticsConfigurationResult",
    "ListBucketIntelligentTieringConfigurations": "ListBucketIntelligentTieringConfigurationsResult",
    "ListBucketInventoryConfigurations": "ListInventoryConfigurationsResult",
    "ListBucketMetricsConfigurations": "ListMetricsConfigurationsResult",
}

# The one answer that is a bare element with text: <LocationConstraint>eu-west-1</LocationConstraint>.
BARE: Final = {"GetBucketLocation": "LocationConstraint"}

# Members that carry key text in listings (API reference, "encoding-type").
_ENCODED: Final = frozenset({
    "Key", "Prefix", "Delimiter", "Marker", "NextMarker", "StartAfter", "KeyMarker", "NextKeyMarker",
})  # fmt: skip


def status_of(result: Mapping[str, Any], status: int) -> int:
    """206 for part of an object, which the model does not say; else the model's `status`."""
    return 206 if result.get("ContentRange") is not None else status


def with_encoded_names(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """The listing with its key texts percent-encoded, when it says EncodingType "url"; otherwise as it is.

    Services hand over plain text; that keys may hold what XML cannot is the wire's concern.
    """
    if result.get("EncodingType") != "url":
        return result
    encoded: Mapping[str, Any] = _encode(result)
    return encoded


def _encode(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            name: quote(item, safe="/-_.*") if name in _ENCODED and isinstance(item, str) else _encode(item)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [_encode(item) for item in value]
    return value
