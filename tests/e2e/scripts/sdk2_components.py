"""SageMaker Python SDK v2, two models as inference components of one endpoint."""

import os
import tempfile
from pathlib import Path

import sagemaker
from sagemaker.compute_resource_requirements.resource_requirements import ResourceRequirements
from sagemaker.deserializers import CSVDeserializer
from sagemaker.enums import EndpointType
from sagemaker.serializers import CSVSerializer
from sdk2_models import KIND, ROWS, RUN, model, right


def components(session, role, folder):
    """Two models on one endpoint, which the SDK makes with the first of them."""
    endpoint = f"shared-{RUN}"
    needs = ResourceRequirements(requests={"num_cpus": 0.5, "memory": 512, "copies": 1})
    predictors = []
    for number in range(2):
        name = f"part-{number}-{RUN}"
        one = model(session, role, folder, f"component-{number}")
        predictors.append(
            one.deploy(
                1,
                KIND,
                endpoint_name=endpoint,
                endpoint_type=EndpointType.INFERENCE_COMPONENT_BASED,
                inference_component_name=name,
                resources=needs,
                serializer=CSVSerializer(),
                deserializer=CSVDeserializer(),
            )
        )
        assert predictors[-1].component_name == name
    assert all(right(predictor.predict(ROWS)) for predictor in predictors)
    (related, _) = predictors[0].list_related_models()
    assert f"part-1-{RUN}" in str(related), related
    for predictor in predictors:
        predictor.delete_predictor(wait=False)
    session.delete_endpoint(endpoint)


def main():
    session = sagemaker.Session()
    with tempfile.TemporaryDirectory() as folder:
        components(session, os.environ["SAGEMAKER_ROLE"], Path(folder))
    print("components: done", flush=True)


if __name__ == "__main__":
    main()
