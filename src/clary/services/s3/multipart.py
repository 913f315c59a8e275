"""Multipart uploads: begin, parts, complete, abort, and what is under way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from urllib.parse import quote

from clary.domain.errors import Invalid
from clary.services.base import Context, Handler, Members, present
from clary.services.s3 import checksum_members
from clary.services.s3.conditions import only_new, read_conditions
from clary.services.s3.copy_source import parse_copy_source
from clary.services.s3.errors import invalid_argument, malformed_xml
from clary.services.s3.intake import PUT_MAX_BYTES, claims_of, take_in
from clary.services.s3.lanes import Lanes
from clary.services.s3.listing import at_most
from clary.services.s3.metadata import metadata_of
from clary.services.s3.ranges import parse_copy_range
from clary.services.s3.room import Room, arn, quoted
from clary.store.checksums import Checksum, ChecksumType
from clary.store.object_info import CompletedPart, PartInfo, PartPage, UploadInfo
from clary.store.objects import ObjectStore
from clary.store.put_session import PutSession
from clary.wire.errors import WireError

# S3 API reference, ListParts and ListMultipartUploads.
LIST_MAX = 1000


class Multipart(Room):
    """Everything about uploads in parts."""

    def __init__(self, objects: ObjectStore, lanes: Lanes, account: str, now: Callable[[], datetime]) -> None:
        super().__init__(objects, lanes, account, now)
        self.operations: Mapping[str, Handler] = {
            "CreateMultipartUpload": self.create,
            "UploadPart": self.upload_part,
            "UploadPartCopy": self.copy_part,
            "CompleteMultipartUpload": self.complete,
            "AbortMultipartUpload": self.abort,
            "ListParts": self.list_parts,
            "ListMultipartUploads": self.list_uploads,
        }

    async def create(self, context: Context, params: Members) -> Members:
        await self.admit(context, params, "PutObject", *(("PutObjectTagging",) if params.get("Tagging") else ()))
        metadata = metadata_of(params)
        algorithm, kind = checksum_members.asked_algorithm(params), checksum_members.asked_type(params)
        upload = await self.lanes.meta(
            lambda: self.objects.create_upload(
                params["Bucket"],
                params["Key"],
                metadata=metadata,
                checksum_algorithm=algorithm,
                checksum_type=kind,
            )
        )
        return {
            "Bucket": upload.bucket,
            "Key": upload.key,
            "UploadId": upload.upload_id,
            "ChecksumAlgorithm": upload.checksum_algorithm,
            "ChecksumType": upload.checksum_type,
        }

    async def upload_part(self, context: Context, params: Members) -> Members:
        await self.admit(context, params, "PutObject")
        bucket, key, upload_id, number = params["Bucket"], params["Key"], params["UploadId"], params["PartNumber"]
        claims = claims_of(params)

        def begin(hash_sha256: bool) -> PutSession[PartInfo]:
            if claims.algorithm is not None:
                expected = self.objects.head_upload(bucket, key, upload_id).checksum_algorithm
                if expected not in (None, claims.algorithm):
                    message = (
                        f"Checksum Type mismatch occurred, expected checksum Type: {str(expected).lower()}, actual "
                        f"checksum Type: {claims.algorithm.lower()}"
                    )
                    raise Invalid("part", message, rule="InvalidRequest")
            return self.objects.begin_part(
                bucket, key, upload_id, number, checksum_algorithm=claims.algorithm, hash_sha256=hash_sha256
            )

        part = await take_in(self.lanes, claims, begin)
        return {"ETag": quoted(part.etag), **checksum_members.members(part.checksum, with_type=False)}

    async def copy_part(self, context: Context, params: Members) -> Members:
        source = parse_copy_source(params["CopySource"])
        context.authorize("s3:GetObject", arn(context, source.bucket, source.key))
        await self.admit(context, params, "PutObject")
        await self.expect_owner(source.bucket, params.get("ExpectedSourceBucketOwner"))
        conditions = read_conditions(params, self.now(), "CopySource")
        start, end = parse_copy_range(params.get("CopySourceRange"))
        if end is not None and end - start > PUT_MAX_BYTES:
            message = (
                "The specified copy source is larger than the maximum allowable size for a copy source: 5368709120"
            )
            raise WireError("InvalidRequest", 400, message)

        def work() -> PartInfo:
            try:
                return self.objects.copy_part(
                    source.bucket,
                    source.key,
                    params["Bucket"],
                    params["Key"],
                    params["UploadId"],
                    params["PartNumber"],
                    start=start,
                    end=end,
                    source_conditions=conditions,
                )
            except Invalid as error:
                if error.rule != "InvalidRange":
                    raise
                # Only a GET answers 416; a copy's range is an argument like others.
                why = f"Range specified is not valid for source object: {error.why}"
                raise invalid_argument("x-amz-copy-source-range", params["CopySourceRange"], why) from error

        part = await self.lanes.copy(work)
        result = {"ETag": quoted(part.etag), "LastModified": part.last_modified_at}
        return {"CopyPartResult": {**result, **checksum_members.members(part.checksum, with_type=False)}}

    async def complete(self, context: Context, params: Members) -> Members:
        await self.admit(context, params, "PutObject")
        parts = [_completed(one) for one in (params.get("MultipartUpload") or {}).get("Parts") or []]
        expected = checksum_members.given(params, composite=True)
        kind = checksum_members.asked_type(params)
        if expected is not None and kind is ChecksumType.COMPOSITE and "-" not in expected.value:
            expected = Checksum(expected.algorithm, f"{expected.value}-{len(parts)}", kind)
        none_match = only_new(params)
        info = await self.lanes.meta(
            lambda: self.objects.complete(
                params["Bucket"],
                params["Key"],
                params["UploadId"],
                parts,
                expect_checksum=expected,
                expect_length=params.get("MpuObjectSize"),
                if_match=params.get("IfMatch"),
                if_none_match=none_match,
            )
        )
        return {
            "Location": f"/{info.bucket}/{quote(info.key)}",
            "Bucket": info.bucket,
            "Key": info.key,
            "ETag": quoted(info.etag),
            **checksum_members.members(info.checksum),
        }

    async def abort(self, context: Context, params: Members) -> Members:
        await self.admit(context, params, "AbortMultipartUpload")
        await self.lanes.meta(lambda: self.objects.abort(params["Bucket"], params["Key"], params["UploadId"]))
        return {}

    async def list_parts(self, context: Context, params: Members) -> Members:
        await self.admit(context, params, "ListMultipartUploadParts")
        bucket, key, upload_id = params["Bucket"], params["Key"], params["UploadId"]
        most = at_most(params.get("MaxParts"), "max-parts", LIST_MAX)
        after = params.get("PartNumberMarker") or 0

        def work() -> tuple[UploadInfo, PartPage]:
            upload = self.objects.head_upload(bucket, key, upload_id)
            if not most:
                return upload, PartPage((), None)
            return upload, self.objects.list_parts(bucket, key, upload_id, after=after, max_parts=most)

        upload, page = await self.lanes.meta(work)
        return present(
            Bucket=bucket,
            Key=key,
            UploadId=upload_id,
            PartNumberMarker=after,
            NextPartNumberMarker=page.next or (page.parts[-1].number if page.parts else 0),
            MaxParts=most,
            IsTruncated=page.next is not None,
            Parts=[_part(one) for one in page.parts],
            Initiator=self.owner,
            Owner=self.owner,
            StorageClass=upload.metadata.storage_class,
            ChecksumAlgorithm=upload.checksum_algorithm,
            ChecksumType=upload.checksum_type,
        )

    async def list_uploads(self, context: Context, params: Members) -> Members:
        await self.admit(context, params, "ListBucketMultipartUploads")
        most = at_most(params.get("MaxUploads"), "max-uploads", LIST_MAX)
        key_marker, upload_id_marker = params.get("KeyMarker") or "", params.get("UploadIdMarker") or ""
        page = await self.lanes.meta(
            lambda: self.objects.list_uploads(
                params["Bucket"],
                prefix=params.get("Prefix") or "",
                delimiter=params.get("Delimiter") or "",
                key_marker=key_marker,
                upload_id_marker=upload_id_marker,
                max_uploads=most,
            )
        )
        next_key, next_upload_id = page.next or (None, None)
        return present(
            Bucket=params["Bucket"],
            KeyMarker=key_marker,
            UploadIdMarker=upload_id_marker,
            NextKeyMarker=next_key,
            NextUploadIdMarker=next_upload_id,
            Prefix=params.get("Prefix") or "",
            Delimiter=params.get("Delimiter") or None,
            MaxUploads=most,
            IsTruncated=page.next is not None,
            EncodingType=params.get("EncodingType"),
            Uploads=[self._upload(one) for one in page.uploads],
            CommonPrefixes=[{"Prefix": one} for one in page.common_prefixes],
        )

    def _upload(self, upload: UploadInfo) -> Members:
        return present(
            UploadId=upload.upload_id,
            Key=upload.key,
            Initiated=upload.initiated_at,
            StorageClass=upload.metadata.storage_class,
            Owner=self.owner,
            Initiator=self.owner,
            ChecksumAlgorithm=upload.checksum_algorithm,
            ChecksumType=upload.checksum_type,
        )


def _completed(part: Members) -> CompletedPart:
    number, etag = part.get("PartNumber"), part.get("ETag")
    if number is None or etag is None:
        raise malformed_xml("a Part needs its PartNumber and its ETag")
    return CompletedPart(number, etag.strip('"'), checksum_members.given(part))


def _part(part: PartInfo) -> Members:
    return {
        "PartNumber": part.number,
        "LastModified": part.last_modified_at,
        "ETag": quoted(part.etag),
        "Size": part.size_bytes,
        **checksum_members.members(part.checksum, with_type=False),
    }
