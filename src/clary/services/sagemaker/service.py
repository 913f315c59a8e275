"""The `sagemaker` service: its rooms put together."""

from __future__ import annotations

from collections.abc import Mapping

from clary.domain.errors import ClaryError
from clary.services.base import Handler
from clary.services.sagemaker import errors
from clary.services.sagemaker.endpoint_configs import EndpointConfigs
from clary.services.sagemaker.endpoints import Endpoints
from clary.services.sagemaker.inference_components import InferenceComponents
from clary.services.sagemaker.models import Models
from clary.services.sagemaker.tags import Tags
from clary.services.sagemaker.transform_jobs import TransformJobs
from clary.wire.errors import WireError


class SageMaker:
    """All operations that are served."""

    name = "sagemaker"

    def __init__(
        self,
        models: Models,
        configs: EndpointConfigs,
        endpoints: Endpoints,
        components: InferenceComponents,
        transforms: TransformJobs,
        tags: Tags,
    ) -> None:
        self.operations: Mapping[str, Handler] = {
            **models.operations,
            **configs.operations,
            **endpoints.operations,
            **components.operations,
            **transforms.operations,
            **tags.operations,
        }

    def wire_error(self, error: ClaryError) -> WireError:
        return errors.wire_error(error)
