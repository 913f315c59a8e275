"""Members that S3 knows and that clary does not honour: refused by name where ignoring them would be a lie.

One row a member: the values that mean nothing more than the default and pass, and why all others do not. Members with
no row and no code are without effect here and harmless (RequestPayer, BypassGovernanceRetention, MFA on a bucket that
keeps no versions).
"""

from __future__ import annotations

from dataclasses import dataclass

from clary.domain.errors import Unsupported
from clary.services.base import Members
from clary.services.s3.errors import invalid_argument
from clary.wire.errors import WireError

_ENCRYPTION = "objects are stored as they come; leave it out and encrypt the disk or the body"
# Encryption with keys that are the store's own affair: S3 does it to every object whatever is asked, and the SageMaker
# SDK asks for it with every source archive. It passes; the answer names no encryption, so nobody is told of one.
_STORES_OWN_KEYS = ("AES256", "aws:kms")
_LOCK = "there is no object lock; leave it out"
_GRANT = "The bucket does not allow ACLs: access is told by policies alone; leave it out"
_NO_ACL = "AccessControlListNotSupported"
_DIRECTORY = "it belongs to directory buckets, which are not served"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Values in `harmless` pass; the others are answered with `code`, or with NotImplemented."""

    why: str
    harmless: tuple[object, ...] = ()
    code: str = ""


REFUSALS = {
    "ACL": Refusal(_GRANT, ("private", "bucket-owner-full-control", "bucket-owner-read"), _NO_ACL),
    "AnnotationDirective": Refusal("objects have no annotations", ("COPY",)),
    "BucketKeyEnabled": Refusal(_ENCRYPTION, (False,)),
    "BucketNamespace": Refusal("there is one namespace of buckets", ("global",)),
    "CopySourceSSECustomerAlgorithm": Refusal(_ENCRYPTION),
    "CopySourceSSECustomerKey": Refusal(_ENCRYPTION),
    "CopySourceSSECustomerKeyMD5": Refusal(_ENCRYPTION),
    "GrantFullControl": Refusal(_GRANT, code=_NO_ACL),
    "GrantRead": Refusal(_GRANT, code=_NO_ACL),
    "GrantReadACP": Refusal(_GRANT, code=_NO_ACL),
    "GrantWrite": Refusal(_GRANT, code=_NO_ACL),
    "GrantWriteACP": Refusal(_GRANT, code=_NO_ACL),
    "IfMatchInitiatedTime": Refusal(_DIRECTORY),
    "IfMatchLastModifiedTime": Refusal(_DIRECTORY),
    "IfMatchSize": Refusal(_DIRECTORY),
    "ObjectLockEnabledForBucket": Refusal(_LOCK, (False,)),
    "ObjectLockEventHold": Refusal(_LOCK, ("OFF",)),
    "ObjectLockEventHoldDurationDays": Refusal(_LOCK),
    "ObjectLockEventHoldDurationYears": Refusal(_LOCK),
    "ObjectLockLegalHoldStatus": Refusal(_LOCK, ("OFF",)),
    "ObjectLockMode": Refusal(_LOCK),
    "ObjectLockRetainUntilDate": Refusal(_LOCK),
    "ObjectOwnership": Refusal(_GRANT, ("BucketOwnerEnforced",)),
    "SSECustomerAlgorithm": Refusal(_ENCRYPTION),
    "SSECustomerKey": Refusal(_ENCRYPTION),
    "SSECustomerKeyMD5": Refusal(_ENCRYPTION),
    "SSEKMSEncryptionContext": Refusal(_ENCRYPTION),
    "SSEKMSKeyId": Refusal(_ENCRYPTION),
    "ServerSideEncryption": Refusal(_ENCRYPTION, _STORES_OWN_KEYS),
    "WebsiteRedirectLocation": Refusal("there is no website hosting; leave it out"),
    "WriteOffsetBytes": Refusal(_DIRECTORY),
}
_SECRET = frozenset({"SSECustomerKey", "CopySourceSSECustomerKey"})
# Storage classes that name another place than this store.
_ELSEWHERE = frozenset({"EXPRESS_ONEZONE", "OUTPOSTS", "SNOW", "FSX_OPENZFS", "FSX_ONTAP"})


def refuse(params: Members) -> None:
    """Raises: Unsupported for a member that cannot be honoured, WireError for a version or storage class we lack."""
    for name, value in params.items():
        refusal = REFUSALS.get(name)
        if refusal is not None and value is not None and value not in refusal.harmless:
            told = name if name in _SECRET else f"{name}={value}"
            if refusal.code:
                raise WireError(refusal.code, 400, f"{refusal.why} ({told})")
            raise Unsupported(told, refusal.why)
    version = params.get("VersionId")
    if version not in (None, "null"):
        raise invalid_argument("versionId", version, "Invalid version id specified: buckets here keep no versions")
    if params.get("StorageClass") in _ELSEWHERE:
        message = f"The storage class you specified is not valid: {params['StorageClass']} is not served"
        raise WireError("InvalidStorageClass", 400, message)
