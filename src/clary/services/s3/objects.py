"""Objects: put, get, head, delete."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from clary.domain.errors import AccessDenied, ClaryError, PreconditionFailed
from clary.services.base import Context, Handler, Members
from clary.services.s3 import checksum_members
from clary.services.s3.conditions import read_conditions
from clary.services.s3.errors import invalid_argument, malformed_xml, wire_error
from clary.services.s3.intake import claims_of, take_in
from clary.services.s3.lanes import Lanes
from clary.services.s3.metadata import check_overrides, described, metadata_of
from clary.services.s3.outflow import flow
from clary.services.s3.ranges import content_range, parse_range
from clary.services.s3.room import Room, arn, quoted
from clary.store.checksums import Checksum
from clary.store.object_info import ObjectInfo, ReadConditions
from clary.store.object_reader import ObjectReader
from clary.store.object_rows import KEY_MAX_BYTES
from clary.store.objects import ObjectStore
from clary.store.put_session import PutSession
from clary.wire.errors import WireError

# S3 API reference, DeleteObjects.
DELETE_MAX_KEYS = 1000


@dataclass(frozen=True, slots=True)
class Portion:
    """The bytes [start, end) of an object that an answer gives; `is_part` when they are told as a range."""

    info: ObjectInfo
    start: int
    end: int
    is_part: bool
    checksum: Checksum | None
    parts_count: int | None = None


class Objects(Room):
    """One object at a time, and DeleteObjects."""

    def __init__(self, objects: ObjectStore, lanes: Lanes, account: str, now: Callable[[], datetime]) -> None:
        super().__init__(objects, lanes, account, now)
        self.operations: Mapping[str, Handler] = {
            "PutObject": self.put,
            "GetObject": self.get,
            "HeadObject": self.head,
            "DeleteObject": self.delete,
            "DeleteObjects": self.delete_many,
        }

    async def put(self, context: Context, params: Members) -> Members:
        await self.admit(context, params, "PutObject", *(("PutObjectTagging",) if params.get("Tagging") else ()))
        bucket, key, metadata = params["Bucket"], params["Key"], metadata_of(params)
        claims = claims_of(params)

        def begin(hash_sha256: bool) -> PutSession[ObjectInfo]:
            return self.objects.begin_put(
                bucket, key, metadata=metadata, checksum_algorithm=claims.algorithm, hash_sha256=hash_sha256
            )

        info = await take_in(self.lanes, claims, begin)
        return {"ETag": quoted(info.etag), **checksum_members.members(info.checksum)}

    async def get(self, context: Context, params: Members) -> Members:
        await self.admit(context, params, "GetObject")
        check_overrides(params)
        conditions = read_conditions(params, self.now())
        found: list[Portion] = []

        def open_reader() -> ObjectReader:
            reader, portion = self._open(params, conditions)
            found.append(portion)
            return reader

        stream = await flow(self.lanes, open_reader)
        whole = stream.whole()
        return {**_answer(found[0], params), "Body": stream if whole is None else whole}

    async def head(self, context: Context, params: Members) -> Members:
        await self.admit(context, params, "GetObject")
        check_overrides(params)
        conditions = read_conditions(params, self.now())

        def look() -> Portion:
            info = self.objects.head(params["Bucket"], params["Key"])
            conditions.check(info)
            return self._portion(info, params)

        return _answer(await self.lanes.meta(look), params)

    async def delete(self, context: Context, params: Members) -> Members:
        await self.admit(context, params, "DeleteObject")
        bucket, key, etag = params["Bucket"], params["Key"], params.get("IfMatch")
        await self.lanes.meta(lambda: self.objects.delete(bucket, key, if_match=etag))
        return {}

    async def delete_many(self, context: Context, params: Members) -> Members:
        bucket, wanted = params["Bucket"], params["Delete"]["Objects"]
        await self.expect_owner(bucket, params.get("ExpectedBucketOwner"))
        if not 1 <= len(wanted) <= DELETE_MAX_KEYS:
            raise malformed_xml(f"{len(wanted)} objects to delete; 1 to {DELETE_MAX_KEYS} go into one request")
        errors: list[Members] = []
        plain: list[str] = []
        conditional: list[Members] = []
        for item in wanted:
            refused = _refused(context, bucket, item)
            if refused is not None:
                errors.append(_failed(item["Key"], refused))
            elif item.get("ETag") is None:
                plain.append(item["Key"])
            else:
                conditional.append(item)

        def work() -> list[str]:
            gone = [one.key for one in self.objects.delete_many(bucket, plain)]
            for item in conditional:
                try:
                    self.objects.delete(bucket, item["Key"], if_match=item["ETag"])
                    gone.append(item["Key"])
                except PreconditionFailed as error:
                    errors.append(_failed(item["Key"], wire_error(error)))
            return gone

        deleted = await self.lanes.meta(work)
        quiet = params["Delete"].get("Quiet")
        return {"Deleted": [] if quiet else [{"Key": key} for key in deleted], "Errors": errors}

    def _open(self, params: Members, conditions: ReadConditions) -> tuple[ObjectReader, Portion]:
        """A reader of the portion that a request wants; it begins again when the object changes meanwhile."""
        bucket, key = params["Bucket"], params["Key"]
        if params.get("Range") is None and params.get("PartNumber") is None:
            reader = self.objects.open(bucket, key, conditions=conditions)
            return reader, self._portion(reader.info, params)
        while True:
            info = self.objects.head(bucket, key)
            conditions.check(info)
            portion = self._portion(info, params)
            try:
                reader = self.objects.open(bucket, key, portion.start, portion.end)
            except ClaryError:
                if self.objects.head(bucket, key).content_id == info.content_id:
                    raise
                continue
            if reader.info.content_id == info.content_id:
                return reader, portion
            reader.close()

    def _portion(self, info: ObjectInfo, params: Members) -> Portion:
        """Raises: WireError for bytes that are not there."""
        wanted, number = parse_range(params.get("Range")), params.get("PartNumber")
        if number is not None:
            if params.get("Range") is not None:
                raise WireError(
                    "InvalidRequest", 400, "Cannot specify both Range header and partNumber query parameter"
                )
            return self._part(info, number)
        if wanted is None:
            return Portion(info, 0, info.size_bytes, False, info.checksum)
        start, end = wanted.within(info.size_bytes)
        # The checksum is that of the whole object: beside fewer bytes it would only mislead.
        return Portion(info, start, end, True, info.checksum if end - start == info.size_bytes else None)

    def _part(self, info: ObjectInfo, number: int) -> Portion:
        if number < 1:
            raise invalid_argument(
                "partNumber", number, "Part number must be an integer between 1 and 10000, inclusive"
            )
        parts = self.objects.parts_of(info.bucket, info.key) if info.part_count is not None else ()
        if not parts and number == 1:
            # An object that was put in one piece is its own first part; no range can be told of an empty one.
            return Portion(info, 0, info.size_bytes, info.size_bytes > 0, info.checksum)
        start = 0
        for position, part in enumerate(parts, 1):
            if position == number:
                return Portion(info, start, start + part.size_bytes, part.size_bytes > 0, part.checksum, len(parts))
            start += part.size_bytes
        raise WireError(
            "InvalidPartNumber",
            416,
            "The requested partnumber is not satisfiable",
            {"ActualPartCount": len(parts) or 1, "PartNumberRequested": number},
        )


def _answer(portion: Portion, params: Members) -> Members:
    found = described(portion.info, params)
    found["ContentLength"] = portion.end - portion.start
    if portion.is_part:
        found["ContentRange"] = content_range(portion.start, portion.end, portion.info.size_bytes)
    if portion.parts_count is not None:
        found["PartsCount"] = portion.parts_count
    if params.get("ChecksumMode") == "ENABLED":
        found.update(checksum_members.members(portion.checksum))
    return found


def _refused(context: Context, bucket: str, item: Members) -> WireError | None:
    """Why one item of a DeleteObjects is not even tried."""
    key: str = item["Key"]
    if item.get("VersionId") not in (None, "null"):
        return WireError("NoSuchVersion", 404, "The specified version does not exist: buckets here keep no versions.")
    if item.get("LastModifiedTime") is not None or item.get("Size") is not None:
        return WireError("NotImplemented", 501, "LastModifiedTime and Size belong to directory buckets.")
    if len(key.encode()) > KEY_MAX_BYTES:
        return WireError("KeyTooLongError", 400, "Your key is too long")
    try:
        context.authorize("s3:DeleteObject", arn(context, bucket, key))
    except AccessDenied as error:
        return wire_error(error)
    return None


def _failed(key: str, error: WireError) -> Members:
    return {"Key": key, "Code": error.code, "Message": error.message}
