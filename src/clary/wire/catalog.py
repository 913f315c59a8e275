"""Which services there are, and which operation a request means.

Mechanism: the models are botocore's data files, read when a service is first addressed, without their documentation (it
is two thirds of the text). Routing goes from the sure to the vague: the service in the credential scope, the
X-Amz-Target header, the rpc-v2 path, the form's Action, the path; what is left over is S3, whose paths may be anything.
This is the only module that knows botocore; it reads its data and runs none of its code.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from clary.wire import form_body
from clary.wire.errors import WireError
from clary.wire.http import Request
from clary.wire.model import Operation, Service
from clary.wire.rest_binding import query_of
from clary.wire.uri_table import UriTable
from clary.wire.virtual_host import bucket_in_host

# The services that requests are routed to, by botocore's names. For unsigned requests the order decides.
SERVICES: Final = (
    "sagemaker", "sagemaker-runtime", "sagemaker-metrics", "sagemaker-featurestore-runtime", "sagemaker-a2i-runtime",
    "sts", "iam", "logs", "cloudwatch", "application-autoscaling", "cloudformation", "ecr", "athena", "glue",
    "redshift", "redshift-data", "emr", "emr-serverless", "stepfunctions", "events", "scheduler", "sqs", "sns", "ec2",
    "kms", "lambda", "service-quotas", "pricing", "ce", "secretsmanager", "ssm", "s3",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Call:
    """What a request asks for.

    `protocol` is the one that the client spoke, which a service of several protocols answers in. `labels` are the
    decoded parts of a REST path. `query_mode`: the client wants the error codes of the query protocol beside the new
    ones.
    """

    service: str
    protocol: str
    operation: Operation
    labels: Mapping[str, str] = field(default_factory=dict)
    query_mode: bool = False


@dataclass(frozen=True, slots=True)
class Profile:
    """The head of a model: enough to route by, without its operations."""

    name: str
    signing_name: str
    protocols: tuple[str, ...]
    target_prefix: str | None
    api_version: str


@cache
def _data_folder() -> Path:
    spec = find_spec("botocore")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError(
            "botocore is not installed: clary reads the service models from it; run `pip install botocore`"
        )
    return Path(spec.submodule_search_locations[0]) / "data"


def _model_file(name: str) -> Path:
    versions = sorted(path for path in (_data_folder() / name).iterdir() if (path / "service-2.json.gz").exists())
    if not versions:
        raise RuntimeError(f"botocore has no model of the service {name}: upgrade botocore")
    return versions[-1] / "service-2.json.gz"


def _without_documentation(value: Any) -> Any:
    """The same tree without documentation strings (a member of that name is a dict, and stays)."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if isinstance(item.get("documentation"), str):
                del item["documentation"]
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
    return value


@cache
def service(name: str) -> Service:
    """The model of a service by botocore's name; read once, about 40 ms for the largest. Raises: RuntimeError."""
    return Service(name, _without_documentation(json.loads(gzip.decompress(_model_file(name).read_bytes()))))


def operation(service_name: str, name: str) -> Operation:
    """Raises: KeyError when the service has no such operation."""
    return service(service_name).operation(name)


@cache
def uri_table(name: str) -> UriTable:
    return UriTable(service(name))


@cache
def profile(name: str) -> Profile:
    """The head of a service's model, read from the first kilobytes of the file."""
    decoder = json.JSONDecoder()
    with gzip.open(_model_file(name), "rt", encoding="utf-8") as file:
        text = file.read(8192)
    metadata = decoder.raw_decode(text, text.index("{", text.index('"metadata"')))[0]
    return Profile(
        name=name,
        signing_name=metadata.get("signingName", metadata["endpointPrefix"]),
        protocols=tuple(metadata.get("protocols") or (metadata["protocol"],)),
        target_prefix=metadata.get("targetPrefix"),
        api_version=metadata["apiVersion"],
    )


@cache
def _profiles() -> tuple[Profile, ...]:
    return tuple(profile(name) for name in SERVICES)


def protocol_of(request: Request, signing_name: str | None) -> str:
    """The protocol to answer in when nothing more is known, e.g. for a refused signature."""
    if request.header("x-amz-target") is not None:
        return "json"
    if request.header("smithy-protocol") == "rpc-v2-cbor":
        return "smithy-rpc-v2-cbor"
    spoken = {name for known in _profiles() if known.signing_name == signing_name for name in known.protocols}
    if "query" in spoken or "ec2" in spoken:
        return "ec2" if "ec2" in spoken else "query"
    for one in ("rest-json", "json"):
        if one in spoken:
            return one
    if signing_name is None:
        if (request.header("content-type") or "").startswith(form_body.FORM):
            return "query"
        try:
            if next(_by_path(request, _profiles()), None) is not None:
                return "rest-json"
        except WireError:
            return "rest-xml"  # a target that cannot be decoded names no operation
    return "rest-xml"


def route(request: Request, signing_name: str | None) -> Call:
    """The operation that a request means.

    `signing_name` is the service in its verified credential scope, or None for an unsigned request.
    Raises: WireError, with the protocol to print it in.
    """
    try:
        return _route(request, signing_name)
    except WireError as error:
        error.protocol = error.protocol or protocol_of(request, signing_name)
        raise


def _route(request: Request, signing_name: str | None) -> Call:
    known = _profiles()
    if signing_name is not None:
        known = tuple(one for one in known if one.signing_name == signing_name)
        if not known:
            text = f'The service "{signing_name}" is not served here; served are: {", ".join(SERVICES)}.'
            raise WireError("UnknownOperationException", 400, text, protocol=protocol_of(request, None))
    target = request.header("x-amz-target")
    if target is not None:
        return _by_target(request, target, known)
    if request.header("smithy-protocol") is not None:
        return _by_rpc_path(request, known)
    spoken = {protocol for one in known for protocol in one.protocols}
    if spoken & {"query", "ec2"}:
        call = _by_action(request, known)
        if call is not None:
            return call
    call = next(_by_path(request, known), None)
    if call is not None:
        return call
    if any(one.name == "s3" for one in known):
        return _by_bucket(request)
    protocol = protocol_of(request, signing_name)
    if protocol in ("query", "ec2"):
        raise WireError(
            "MissingAction", 400, "The form has no Action field; send Action=<operation>.", protocol=protocol
        )
    names = ", ".join(one.name for one in known)
    text = f"{request.method} {request.raw_path.decode('latin-1')} is no operation of {names}."
    raise WireError("UnknownOperationException", 404, text, protocol=protocol)


def _by_target(request: Request, target: str, known: tuple[Profile, ...]) -> Call:
    prefix, _, name = target.rpartition(".")
    for one in known:
        if one.target_prefix == prefix:
            if name not in service(one.name).operation_names:
                text = f'The service model of {one.name} has no operation "{name}"; a newer botocore may have it.'
                raise WireError("UnknownOperationException", 400, text, protocol="json")
            mode = (request.header("x-amzn-query-mode") or "").lower() == "true"
            return Call(one.name, "json", operation(one.name, name), query_mode=mode)
    text = f'X-Amz-Target "{target}" names no operation of {", ".join(one.name for one in known)}.'
    raise WireError("UnknownOperationException", 400, text, protocol="json")


def _by_rpc_path(request: Request, known: tuple[Profile, ...]) -> Call:
    spoken = request.header("smithy-protocol")
    protocol = f"smithy-{spoken}"
    steps = request.raw_path.decode("latin-1").split("/")
    if len(steps) >= 5 and steps[-4] == "service" and steps[-2] == "operation":
        for one in known:
            if one.target_prefix == steps[-3] and protocol in one.protocols:
                if steps[-1] in service(one.name).operation_names:
                    mode = (request.header("x-amzn-query-mode") or "").lower() == "true"
                    return Call(one.name, protocol, operation(one.name, steps[-1]), query_mode=mode)
                break
    text = f"{request.raw_path.decode('latin-1')} with smithy-protocol {spoken} names no operation that is served here."
    raise WireError("UnknownOperationException", 404, text, protocol="smithy-rpc-v2-cbor")


def _by_action(request: Request, known: tuple[Profile, ...]) -> Call | None:
    fields = dict(form_body.fields_of_request(request, with_body=form_body.is_form(request)))
    name = fields.get("Action")
    if name is None:
        return None
    version = fields.get("Version")
    candidates = [one for one in known if set(one.protocols) & {"query", "ec2"}]
    fitting = [one for one in candidates if one.api_version == version] or candidates
    for one in fitting:
        if name in service(one.name).operation_names:
            return Call(one.name, "ec2" if "ec2" in one.protocols else "query", operation(one.name, name))
    text = f"Could not find operation {name} for version {version or 'NO_VERSION_SPECIFIED'}"
    raise WireError("InvalidAction", 400, text, protocol="query")


def _by_path(request: Request, known: tuple[Profile, ...]) -> Iterator[Call]:
    names = {name for name, _ in request.headers}
    for one in known:
        if "rest-json" in one.protocols or ("rest-xml" in one.protocols and one.name != "s3"):
            found = uri_table(one.name).match(request.method, request.raw_path, query_of(request), names)
            if found is not None:
                yield Call(one.name, one.protocols[0], operation(one.name, found.operation), found.labels)


def _by_bucket(request: Request) -> Call:
    """An S3 operation: path style, or virtual-host style when the host is `<bucket>.s3.<anything>`."""
    path = request.raw_path
    bucket = bucket_in_host(request.header("host") or "")
    if bucket is not None:
        path = b"/" + bucket.encode() + (path if path != b"/" else b"")
    elif path.startswith(b"//"):
        raise WireError("InvalidBucketName", 400, "The bucket's name is empty.", protocol="rest-xml")
    names = {name for name, _ in request.headers}
    found = uri_table("s3").match(request.method, path, query_of(request), names, complete=True)
    if found is None:
        text = f"The specified method is not allowed against this resource: {request.method} {path.decode('latin-1')}"
        raise WireError("MethodNotAllowed", 405, text, protocol="rest-xml")
    return Call("s3", "rest-xml", operation("s3", found.operation), found.labels)
