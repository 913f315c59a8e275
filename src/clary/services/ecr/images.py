"""Images of repositories, by tag and by digest. Layers travel by the distribution protocol (`gateway.distribution`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clary.domain.container_image import is_digest
from clary.domain.errors import Invalid, NotFound
from clary.services.base import Context, Handler, Members, page_position, page_token, present
from clary.services.ecr.room import Room
from clary.store.registry import Image, Registry
from clary.store.resources import Resources

PAGE = 100


class Images(Room):
    """See the module."""

    def __init__(self, resources: Resources, registry: Registry) -> None:
        super().__init__(resources, registry)
        self.operations: Mapping[str, Handler] = {
            "DescribeImages": self.describe_images,
            "ListImages": self.list_images,
            "BatchGetImage": self.batch_get_image,
            "BatchDeleteImage": self.batch_delete_image,
            "BatchCheckLayerAvailability": self.batch_check_layer_availability,
        }

    async def describe_images(self, context: Context, request: Members) -> Members:
        record = await self.repository(context, request, "DescribeImages")
        if asked := request.get("imageIds"):
            found = []
            for identifier in asked:
                image = await self._image(record.uid, identifier)
                if isinstance(image, str):
                    raise NotFound("image", identifier.get("imageTag") or identifier.get("imageDigest", ""))
                found.append(image)
            return {"imageDetails": [_detail(context, record.name, image) for image in found]}
        status = request.get("filter", {}).get("tagStatus", "ANY")
        images = [image for image in await self.registry.images(record.uid) if _has(image, status)]
        page, following = _page(images, request)
        return present(imageDetails=[_detail(context, record.name, image) for image in page], nextToken=following)

    async def list_images(self, context: Context, request: Members) -> Members:
        record = await self.repository(context, request, "ListImages")
        status = request.get("filter", {}).get("tagStatus", "ANY")
        ids: list[Members] = []
        for image in await self.registry.images(record.uid):
            if _has(image, status):
                ids += [{"imageDigest": image.digest, "imageTag": tag} for tag in image.tags] or [
                    {"imageDigest": image.digest}
                ]
        page, following = _page(ids, request)
        return present(imageIds=page, nextToken=following)

    async def batch_get_image(self, context: Context, request: Members) -> Members:
        record = await self.repository(context, request, "BatchGetImage")
        images, failures = [], []
        for identifier in request["imageIds"]:
            image = await self._image(record.uid, identifier)
            if isinstance(image, str):
                failures.append(_failure(identifier, image))
                continue
            told = {"imageDigest": image.digest, **({"imageTag": tag} if (tag := identifier.get("imageTag")) else {})}
            images.append(
                {
                    "registryId": context.place.account,
                    "repositoryName": record.name,
                    "imageId": told,
                    "imageManifest": image.body.decode(),
                    "imageManifestMediaType": image.media_type,
                }
            )
        return {"images": images, "failures": failures}

    async def batch_delete_image(self, context: Context, request: Members) -> Members:
        record = await self.repository(context, request, "BatchDeleteImage")
        gone, failures = [], []
        for identifier in request["imageIds"]:
            digest, tag = identifier.get("imageDigest", ""), identifier.get("imageTag", "")
            try:
                if not (digest or tag):
                    raise Invalid("image", "neither digest nor tag", rule="MissingDigestAndTag")
                pairs = await self.registry.delete_image(record.uid, digest, tag)
            except NotFound:
                failures.append(_failure(identifier, "ImageNotFound"))
            except Invalid as error:
                failures.append(_failure(identifier, error.rule))
            else:
                gone += [{"imageDigest": one, **({"imageTag": name} if name else {})} for one, name in pairs]
        return {"imageIds": gone, "failures": failures}

    async def batch_check_layer_availability(self, context: Context, request: Members) -> Members:
        record = await self.repository(context, request, "BatchCheckLayerAvailability")
        layers, failures = [], []
        for digest in request["layerDigests"]:
            size_bytes = await self.registry.layer(record.uid, digest) if is_digest(digest) else None
            if size_bytes is not None:
                layers.append({"layerDigest": digest, "layerAvailability": "AVAILABLE", "layerSize": size_bytes})
            elif is_digest(digest):
                layers.append({"layerDigest": digest, "layerAvailability": "UNAVAILABLE"})
            else:
                failures.append(
                    {"layerDigest": digest, "failureCode": "InvalidLayerDigest", "failureReason": "no sha256 digest"}
                )
        return {"layers": layers, "failures": failures}

    async def _image(self, repository: int, identifier: Members) -> Image | str:
        """The image of an ImageIdentifier, or an ImageFailureCode."""
        digest, tag = identifier.get("imageDigest", ""), identifier.get("imageTag", "")
        if not (digest or tag):
            return "MissingDigestAndTag"
        if digest and not is_digest(digest):
            return "InvalidImageDigest"
        image = await self.registry.image(repository, digest or tag)
        if image is None:
            return "ImageNotFound"
        return image if not (digest and tag) or tag in image.tags else "ImageTagDoesNotMatchDigest"


_WHY = {
    "ImageNotFound": "Requested image not found",
    "MissingDigestAndTag": "Invalid request parameters: both tag and digest cannot be null",
    "InvalidImageDigest": "Invalid request parameters: image digest should satisfy the regex 'sha256:[0-9a-f]{64}'",
    "ImageTagDoesNotMatchDigest": "The tag does not belong to the digest",
    "ImageReferencedByManifestList": "The image is referenced by a manifest list; delete that first",
}


def _failure(identifier: Members, code: str) -> Members:
    return {"imageId": identifier, "failureCode": code, "failureReason": _WHY[code]}


def _has(image: Image, status: str) -> bool:
    return status == "ANY" or bool(image.tags) == (status == "TAGGED")


def _page(items: list[Any], request: Members) -> tuple[list[Any], str | None]:
    position = page_position(request.get("nextToken"))
    first = int(position[0]) if position else 0
    last = first + request.get("maxResults", PAGE)
    return items[first:last], page_token([last, 0] if last < len(items) else None)


def _detail(context: Context, name: str, image: Image) -> Members:
    return present(
        registryId=context.place.account,
        repositoryName=name,
        imageDigest=image.digest,
        imageTags=list(image.tags) or None,
        imageSizeInBytes=image.size_bytes,
        imagePushedAt=image.pushed_at,
        imageManifestMediaType=image.media_type,
        artifactMediaType=image.artifact_type or None,
    )
