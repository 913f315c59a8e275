"""S3's own words for what can go wrong.

Codes and statuses: S3 API reference, "Error responses". A rule that a domain error names is already S3's code; the
table here only adds the statuses that are not 400.
"""

from __future__ import annotations

from clary.domain.errors import (
    AccessDenied,
    AlreadyExists,
    ClaryError,
    Conflict,
    Corrupt,
    InUse,
    Invalid,
    NotFound,
    NotModified,
    PreconditionFailed,
    StoreFailed,
    Unsupported,
)
from clary.services.base import common_error
from clary.wire.errors import WireError
from clary.wire.timestamps import http_date

_STATUS = {"InvalidRange": 416, "MissingContentLength": 411}
_MISSING = {
    "Bucket": ("NoSuchBucket", "The specified bucket does not exist", "BucketName"),
    "Key": ("NoSuchKey", "The specified key does not exist.", "Key"),
    "Upload": (
        "NoSuchUpload",
        "The specified multipart upload does not exist. The upload ID may be invalid, or the upload may have been "
        "aborted or completed.",
        "UploadId",
    ),
}
# The store says what and why; S3's clients know these sentences.
_SENTENCES = {
    "InvalidBucketName": "The specified bucket is not valid.",
    "KeyTooLongError": "Your key is too long",
    "InvalidRange": "The requested range is not satisfiable",
    "IncompleteBody": "You did not provide the number of bytes specified by the Content-Length HTTP header",
}


def wire_error(error: ClaryError) -> WireError:
    """The answer for a domain error."""
    match error:
        case NotFound() if error.kind in _MISSING:
            code, message, member = _MISSING[error.kind]
            return WireError(code, 404, message, {member: error.name})
        case AlreadyExists():
            message = "Your previous request to create the named bucket succeeded and you already own it."
            return WireError("BucketAlreadyOwnedByYou", 409, message, {"BucketName": error.name})
        case InUse():
            message = "The bucket you tried to delete is not empty"
            return WireError("BucketNotEmpty", 409, message, {"BucketName": error.name})
        case PreconditionFailed():
            message = "At least one of the pre-conditions you specified did not hold"
            return WireError("PreconditionFailed", 412, message, {"Condition": error.condition})
        case NotModified():
            headers = {"ETag": f'"{error.etag}"', "Last-Modified": http_date(error.last_modified_at)}
            return WireError("NotModified", 304, "Not Modified", headers=headers)
        case AccessDenied():
            return WireError("AccessDenied", 403, f"Access Denied: {error}")
        case Conflict():
            return WireError("OperationAborted", 409, f"A conflicting operation is in progress: {error}")
        case Unsupported():
            message = f"A header you provided implies functionality that is not implemented: {error}"
            return WireError("NotImplemented", 501, message)
        case Corrupt():
            return WireError("InternalError", 500, f"{error}; put the object again or restore it from a copy")
        case StoreFailed():
            return WireError("ServiceUnavailable", 503, f"{error}; try again", headers={"Retry-After": "1"})
        case Invalid() if error.rule:
            return WireError(error.rule, _STATUS.get(error.rule, 400), _SENTENCES.get(error.rule, error.why))
        case _:
            return common_error(error, "AccessDenied", "InvalidRequest")


def invalid_argument(name: str, value: object, why: str) -> WireError:
    """S3's general complaint about a parameter."""
    return WireError("InvalidArgument", 400, why, {"ArgumentName": name, "ArgumentValue": str(value)})


def malformed_xml(why: str) -> WireError:
    """A document that is XML but not what the operation takes."""
    message = f"The XML you provided was not well-formed or did not validate against our published schema: {why}"
    return WireError("MalformedXML", 400, message)
