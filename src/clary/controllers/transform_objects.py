"""A transform job's objects: inputs pinned into its folder when it begins, outputs made visible one by one.

An input is linked, not copied: the job sees the bytes that were there when it began, whatever happens to the object
meanwhile, and a run that goes on after a crash reads what the first one read.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import datetime

from clary.domain.errors import Invalid, NotFound
from clary.domain.names import S3Uri, parse_s3_uri
from clary.domain.transform_job import TransformDesired
from clary.domain.transform_plan import Input, Stretch, capture_manifest, output_key, parse_manifest, relative_key
from clary.failpoints import failpoint
from clary.store.object_info import ObjectMetadata
from clary.store.objects_port import Objects
from clary.transform.folder import JobFolder

MANIFEST_MAX_BYTES = 64 * 1024 * 1024
COPY_BYTES = 1024 * 1024


class TransformObjects:
    """The object store as transform jobs need it. Synchronous: for threads."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def plan(self, desired: TransformDesired, folder: JobFolder) -> tuple[int, int]:
        """Pins every input and writes the list; how many and how many bytes. May be repeated from any state.

        Raises: Invalid with the reason that ends the job.
        """
        shutil.rmtree(folder.inputs_folder, ignore_errors=True)
        folder.make()
        output = _place(desired.output_uri, "S3OutputPath")
        try:
            self._objects.head_bucket(output.bucket)
        except NotFound as error:
            raise Invalid("S3OutputPath", f"the bucket of {desired.output_uri} does not exist") from error
        count, total = folder.write_inputs(self._inputs(desired, output, folder))
        if not count:
            bucket = _place(desired.source_uri, "S3Uri").bucket
            raise Invalid(
                "S3Uri",
                f'No S3 objects found under S3 URL "{desired.source_uri}" given in input data source. Please ensure '
                "that the bucket exists in the selected region, that objects exist under that S3 prefix, and that the "
                f'role has "s3:ListBucket" permissions on bucket "{bucket}".',
            )
        return count, total

    def _inputs(self, desired: TransformDesired, output: S3Uri, folder: JobFolder) -> Iterator[Input]:
        taken: dict[str, str] = {}
        listed = self._manifest(desired) if desired.source_type == "ManifestFile" else self._prefix(desired)
        for number, (bucket, key, relative) in enumerate(listed):
            target = output_key(output.key, relative)
            if target in taken:
                raise Invalid("S3Uri", f"{taken[target]} and s3://{bucket}/{key} would both become {target}")
            taken[target] = f"s3://{bucket}/{key}"
            try:
                with self._objects.open(bucket, key) as reader:
                    stretches = []
                    for place, one in enumerate(reader.stretches):
                        name = f"{number}-{place}"
                        os.link(one.path, folder.inputs_folder / name)
                        stretches.append(Stretch(name, one.offset_bytes, one.size_bytes))
                    info = reader.info
            except NotFound as error:
                raise Invalid("S3Uri", f"s3://{bucket}/{key} does not exist") from error
            yield Input(number, bucket, key, output.bucket, target, info.size_bytes, info.etag, tuple(stretches))

    def _prefix(self, desired: TransformDesired) -> Iterator[tuple[str, str, str]]:
        place = _place(desired.source_uri, "S3Uri")
        after: str | None = ""
        while after is not None:
            try:
                page = self._objects.list_objects(place.bucket, prefix=place.key, start_after=after, max_keys=1000)
            except NotFound:
                return
            for one in page.objects:
                if not one.key.endswith("/"):  # what consoles make to show a folder
                    yield place.bucket, one.key, relative_key(place.key, one.key)
            after = page.next

    def _manifest(self, desired: TransformDesired) -> list[tuple[str, str, str]]:
        place = _place(desired.source_uri, "S3Uri")
        try:
            with self._objects.open(place.bucket, place.key) as reader:
                if reader.size_bytes > MANIFEST_MAX_BYTES:
                    raise Invalid("S3Uri", f"the manifest is larger than {MANIFEST_MAX_BYTES} bytes")
                return parse_manifest(reader.read().decode(errors="replace"))
        except NotFound as error:
            raise Invalid("S3Uri", f"the manifest {desired.source_uri} does not exist") from error

    def publish(self, folder: JobFolder, number: int, bucket: str, key: str, content_type: str) -> None:
        """Makes one whole output visible, once or, after a crash, again with the same bytes.

        Raises: NotFound when the bucket has gone, StoreFailed.
        """
        path = folder.outputs / str(number)
        metadata = ObjectMetadata(system={"content-type": content_type} if content_type else {})
        with path.open("rb") as file, self._objects.begin_put(bucket, key, metadata=metadata, hash_sha256=False) as put:
            while data := file.read(COPY_BYTES):
                put.write(data)
            failpoint("transform.before_publish")
            put.commit()
        failpoint("transform.after_publish")
        folder.add_published(number)
        path.unlink()

    def capture(self, job: str, desired: TransformDesired, started_at: datetime, folder: JobFolder) -> None:
        """Leaves the manifests of DataCaptureConfig; again after a crash, the same ones.

        Raises: NotFound when the bucket has gone, StoreFailed.
        """
        place = _place(desired.capture_uri, "DestinationS3Uri")
        keys_in, keys_out = [], []
        for one in folder.inputs():
            keys_in.append(one.key)
            keys_out.append(one.output_key)
        for kind, bucket, keys in (("input", one.bucket, keys_in), ("output", one.output_bucket, keys_out)):
            key = f"{place.key.rstrip('/')}/{kind}/{started_at:%Y/%m/%d/%H}/{job}-{desired.number}.json".lstrip("/")
            metadata = ObjectMetadata(system={"content-type": "application/json"})
            with self._objects.begin_put(place.bucket, key, metadata=metadata, hash_sha256=False) as put:
                put.write(capture_manifest(bucket, keys))
                put.commit()


def _place(uri: str, member: str) -> S3Uri:
    place = parse_s3_uri(uri)
    if place is None:
        raise Invalid(member, f"{uri} is not an s3:// URI")
    return place
