"""CreateFunction and what changes, shows and removes functions.

Each records what is wanted and returns; `controllers.functions` makes it so.
"""

from __future__ import annotations

import asyncio
import base64
import platform
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from clary.domain.errors import Invalid, NotFound, NotReady, Unsupported
from clary.domain.functions import (
    FUNCTION,
    MAX_ZIP_BYTES,
    NAME,
    PYTHON,
    FunctionDesired,
    check_environment,
    function_arn,
    parse_name,
)
from clary.services.base import Context, Members, page_position, page_token, present
from clary.services.functions.room import Room, described, desired_of
from clary.services.rights import Keyring, authorize_letters, passed_on
from clary.store.codec import encode
from clary.store.function_code import Archive, FunctionCode
from clary.store.objects_port import Objects
from clary.store.resources import Query, Record, Resources

# Member -> values that mean nothing more than the default; all others are refused, with the reason.
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "PackageType": (("Zip",), "functions are zip archives"),
    "ImageConfig": ((), "functions are zip archives"),
    "Layers": (([],), "put what the function needs into its archive"),
    "FileSystemConfigs": (([],), "there are no file systems to mount"),
    "VpcConfig": (({}, {"SubnetIds": [], "SecurityGroupIds": []}), "functions reach clary's own port"),
    "KMSKeyArn": (("",), "nothing is encrypted with KMS keys here"),
    "CodeSigningConfigArn": (("",), "archives are not signed here"),
    "Publish": ((False,), "functions have one version, $LATEST"),
    "PublishTo": ((), "functions have one version, $LATEST"),
    "EphemeralStorage": (({"Size": 512},), "/tmp has 512 MB"),
    "SnapStart": (({"ApplyOn": "None"},), "every invocation is a process of its own"),
    "TracingConfig": (({"Mode": "PassThrough"},), "there is no tracing"),
    "LoggingConfig": (({"LogFormat": "Text"},), "logs are text in /aws/lambda/NAME"),
    "TenancyConfig": ((), "functions serve one account"),
    "CapacityProviderConfig": ((), "functions run on this machine"),
    "DurableConfig": ((), "there are no durable executions"),
    "RuntimeConfig": ((), "there is nothing to configure"),
    "AcceleratorConfig": ((), "functions run on CPUs"),
    "SourceKMSKeyArn": (("",), "nothing is encrypted with KMS keys here"),
    "S3ObjectVersion": ((), "buckets keep no versions"),
    "ImageUri": ((), "functions are zip archives"),
}
ARCHITECTURE = {"aarch64": "arm64"}.get(platform.machine(), platform.machine())
PAGE = 50


class Configurations(Room):
    """See the module."""

    def __init__(
        self,
        resources: Resources,
        code: FunctionCode,
        objects: Objects,
        keyring: Keyring,
        now: Callable[[], datetime],
    ) -> None:
        super().__init__(resources)
        self._code = code
        self._objects = objects
        self._keyring = keyring
        self._now = now
        self.operations = {
            "CreateFunction": self.create_function,
            "GetFunction": self.get_function,
            "GetFunctionConfiguration": self.get_function_configuration,
            "UpdateFunctionCode": self.update_function_code,
            "UpdateFunctionConfiguration": self.update_function_configuration,
            "ListFunctions": self.list_functions,
            "DeleteFunction": self.delete_function,
        }

    async def create_function(self, context: Context, request: Members) -> Members:
        place, name = parse_name(request["FunctionName"], context.place)
        if place != context.place or NAME.fullmatch(name) is None:
            raise Invalid("FunctionName", f"{request['FunctionName']} is not of this account and region.")
        context.authorize("lambda:CreateFunction", function_arn(place, name))
        context.authorize("iam:PassRole", request["Role"])
        _refuse(request)
        _refuse(request["Code"])
        for member in ("Runtime", "Handler"):
            if not request.get(member):
                raise Invalid(member, f"{member} and Handler are mandatory parameters for functions of a zip archive.")
        _check_runtime(request["Runtime"])
        check_environment(request.get("Environment", {}).get("Variables", {}))
        authorize_letters(context, request.get("DeadLetterConfig", {}).get("TargetArn", ""))
        held = await self.resources.find(FUNCTION, place, name)
        if held is not None and desired_of(held).deleted:
            raise NotReady(FUNCTION, name, state="being deleted", next_step="try again")
        archive = await self._archive(context, request["Code"])
        rights: dict[str, Any] = {**passed_on(context, self._keyring)}
        desired = self._configured(
            FunctionDesired(
                request["Runtime"],
                request["Handler"],
                request["Role"],
                archive.sha256,
                archive.size_bytes,
                **rights,
            ),
            request,
        )
        record = await self.resources.create(
            FUNCTION,
            place,
            name,
            encode(desired),
            created_by=context.caller.arn,
            token=context.token,
            tags_of_it=[{"Key": key, "Value": value} for key, value in request.get("Tags", {}).items()],
        )
        return described(record)

    def _configured(self, desired: FunctionDesired, request: Members) -> FunctionDesired:
        """With the members of a request that are there."""
        changes: dict[str, Any] = {
            "description": request.get("Description"),
            "timeout_s": request.get("Timeout"),
            "memory_mib": request.get("MemorySize"),
            "runtime": request.get("Runtime"),
            "handler": request.get("Handler"),
            "role_arn": request.get("Role"),
            "environment": request["Environment"].get("Variables", {}) if "Environment" in request else None,
            "dead_letter_arn": request["DeadLetterConfig"].get("TargetArn", "")
            if "DeadLetterConfig" in request
            else None,
        }
        changes = {name: value for name, value in changes.items() if value is not None}
        at = self._now()
        stamp = at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}+0000"
        return replace(desired, **changes, revision=str(uuid.uuid4()), modified_at=stamp)

    async def _archive(self, context: Context, code: Members) -> Archive:
        """The code that a request brings or names, kept. Raises: Invalid, AccessDenied."""
        content: bytes | None = code.get("ZipFile")
        bucket, key = code.get("S3Bucket"), code.get("S3Key")
        if content is None and not (bucket and key):
            raise Invalid("Code", "Please provide a source for function code.")
        if content is not None and (bucket or key):
            raise Invalid("Code", "Please do not provide other FunctionCode parameters when providing a ZipFile.")
        if content is None:
            context.authorize("s3:GetObject", f"arn:aws:s3:::{bucket}/{key}")
            content = await asyncio.to_thread(self._read, str(bucket), str(key))
        if len(content) > MAX_ZIP_BYTES:
            raise _too_large()
        if not content.startswith(b"PK"):
            raise Invalid("ZipFile", "Could not unzip uploaded file. Please check your file, then try to upload again.")
        return await asyncio.to_thread(self._code.put, bytes(content))

    def _read(self, bucket: str, key: str) -> bytes:
        try:
            with self._objects.open(bucket, key) as reader:
                if reader.size_bytes > MAX_ZIP_BYTES:
                    raise _too_large()
                return b"".join(reader.chunks())
        except NotFound as error:
            what = "NoSuchBucket" if error.kind == "Bucket" else "NoSuchKey"
            text = f"Error occurred while GetObject. S3 Error Code: {what}. S3 Error Message: {error}."
            raise Invalid("Code", text) from error

    async def get_function(self, context: Context, request: Members) -> Members:
        record = await self.function(context, "GetFunction", request)
        held = await self.resources.tags(record.place.arn(FUNCTION, record.name))
        return present(Configuration=described(record), Code={"RepositoryType": "S3"}, Tags=held or None)

    async def get_function_configuration(self, context: Context, request: Members) -> Members:
        return described(await self.function(context, "GetFunctionConfiguration", request))

    async def list_functions(self, context: Context, request: Members) -> Members:
        context.authorize("lambda:ListFunctions", "*")
        if request.get("FunctionVersion") or request.get("MasterRegion"):
            raise Unsupported("FunctionVersion", "functions have one version, $LATEST")
        records, following = await self.resources.list(
            FUNCTION,
            context.place,
            Query(sort_by="Name", descending=False),
            min(request.get("MaxItems", PAGE), PAGE),
            page_position(request.get("Marker")),
            keep=lambda record: not desired_of(record).deleted,
        )
        return present(Functions=[described(record) for record in records], NextMarker=page_token(following))

    async def update_function_code(self, context: Context, request: Members) -> Members:
        record = await self.function(context, "UpdateFunctionCode", request)
        _refuse(request)
        archive = await self._archive(context, request)
        if request.get("DryRun"):
            return {**described(record), "CodeSize": archive.size_bytes, "CodeSha256": _base64(archive.sha256)}
        changes: dict[str, Any] = {"code_sha256": archive.sha256, "code_bytes": archive.size_bytes}
        return await self._change(record, request, lambda held: replace(held, **changes))

    async def update_function_configuration(self, context: Context, request: Members) -> Members:
        record = await self.function(context, "UpdateFunctionConfiguration", request)
        _refuse(request)
        rights: dict[str, Any] = {}
        if request.get("Role"):
            context.authorize("iam:PassRole", request["Role"])
            rights |= passed_on(context, self._keyring)
        if request.get("Runtime"):
            _check_runtime(request["Runtime"])
        check_environment(request.get("Environment", {}).get("Variables", {}))
        authorize_letters(context, request.get("DeadLetterConfig", {}).get("TargetArn", ""))
        return await self._change(record, request, lambda held: replace(self._configured(held, request), **rights))

    async def _change(
        self, record: Record, request: Members, change: Callable[[FunctionDesired], FunctionDesired]
    ) -> Members:
        def decide(_connection: Connection, held: Record) -> Mapping[str, Any]:
            desired = desired_of(held)
            if desired.deleted:
                raise NotFound(FUNCTION, function_arn(held.place, held.name))
            if request.get("RevisionId") not in (None, desired.revision):
                text = "The RevisionId provided does not match the latest RevisionId. Call GetFunction for the latest."
                raise Invalid("RevisionId", text, rule="PreconditionFailedException")
            found: Mapping[str, Any] = encode(self._configured(change(desired), {}))
            return found

        return described(await self.resources.change(FUNCTION, record.place, record.name, decide))

    async def delete_function(self, context: Context, request: Members) -> Members:
        record = await self.function(context, "DeleteFunction", request)

        def decide(_connection: Connection, held: Record) -> Mapping[str, Any]:
            found: Mapping[str, Any] = encode(replace(desired_of(held), deleted=True))
            return found

        await self.resources.change(FUNCTION, record.place, record.name, decide)
        return {}


def _refuse(request: Members) -> None:
    for member, (harmless, why) in REFUSED.items():
        if request.get(member) is not None and request[member] not in harmless:
            raise Unsupported(member, why)
    if request.get("Architectures") not in (None, [ARCHITECTURE], ["x86_64"]):
        raise Unsupported(f"the architecture {request['Architectures']}", f"this host is {ARCHITECTURE}")


def _check_runtime(runtime: str) -> None:
    if PYTHON.fullmatch(runtime) is None:
        raise Unsupported(f"the runtime {runtime}", "functions are Python: python3.11, python3.12 or python3.13")


def _base64(sha256: str) -> str:
    return base64.b64encode(bytes.fromhex(sha256)).decode()


def _too_large() -> Invalid:
    return Invalid("ZipFile", f"The archive is larger than {MAX_ZIP_BYTES} bytes.", rule="RequestTooLargeException")
