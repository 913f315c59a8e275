"""Names, ARNs, regions and S3 URIs: parse, check, print.

Patterns are those of the service model; ARNs carry the name in lower case, as AWS's do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DEFAULT_ACCOUNT = "123456789012"
DEFAULT_REGION = "us-east-1"
_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-\d")
_S3_URI = re.compile(r"s3://([^/]+)/?(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Place:
    """One account in one region: what partitions resources."""

    account: str = DEFAULT_ACCOUNT
    region: str = DEFAULT_REGION

    def arn(self, kind: str, name: str) -> str:
        """The ARN of a SageMaker resource, e.g. kind "endpoint-config"."""
        return f"arn:{partition(self.region)}:sagemaker:{self.region}:{self.account}:{kind}/{name.lower()}"


def partition(region: str) -> str:
    """The ARN partition of a region."""
    if region.startswith("cn-"):
        return "aws-cn"
    return "aws-us-gov" if region.startswith("us-gov-") else "aws"


def is_region(text: str) -> bool:
    return _REGION.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class SageMakerArn:
    """`arn:aws:sagemaker:REGION:ACCOUNT:KIND/NAME`."""

    region: str
    account: str
    kind: str
    name: str


def parse_sagemaker_arn(text: str) -> SageMakerArn | None:
    """The parts of a SageMaker ARN; None when it is not one."""
    parts = text.split(":", 5)
    if len(parts) != 6 or parts[0] != "arn" or parts[2] != "sagemaker" or "/" not in parts[5]:
        return None
    kind, _, name = parts[5].partition("/")
    return SageMakerArn(parts[3], parts[4], kind, name)


@dataclass(frozen=True, slots=True)
class S3Uri:
    """`s3://bucket/key`; the key may be empty or a prefix."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


def parse_s3_uri(text: str) -> S3Uri | None:
    """The bucket and key of an S3 URI; None when it is not one."""
    match = _S3_URI.fullmatch(text)
    return S3Uri(match[1], match[2]) if match else None
