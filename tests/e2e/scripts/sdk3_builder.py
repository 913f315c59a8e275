"""SageMaker Python SDK v3, what ModelBuilder deploys beside a real-time endpoint: asynchronous, captured,
scripted, a pipeline, inference components one by one and as a list, a batch transform."""

import json
import os
import tempfile
from pathlib import Path

from iris_models import (
    EXPECTED,
    IMAGE,
    KIND,
    ROLE,
    RUN,
    TEXT,
    captured_first,
    content,
    gone,
    model,
    numbers,
    put,
    uploaded,
)
from sagemaker.core.helper.session_helper import Session
from sagemaker.core.inference_config import AsyncInferenceConfig, ResourceRequirements
from sagemaker.core.model_monitor.data_capture_config import DataCaptureConfig
from sagemaker.core.resources import Endpoint, InferenceComponent
from sagemaker.core.training.configs import SourceCode
from sagemaker.serve.batch_inference.batch_transform_inference_config import BatchTransformInferenceConfig
from sagemaker.serve.model_builder import ModelBuilder

NEEDS = ResourceRequirements(requests={"num_cpus": 0.5, "memory": 512, "copies": 1})
AS_CSV = {"body": TEXT, "content_type": "text/csv", "accept": "text/csv"}
NAMES = b"""
import json


def model_fn(model_dir):
    return None


def input_fn(body, content_type):
    return [int(float(word)) for word in body.split()]


def predict_fn(data, model):
    return [("setosa", "versicolor", "virginica")[label] for label in data]


def output_fn(prediction, accept):
    return json.dumps(prediction), "application/json"
"""


def builder(session, number, **more):
    return ModelBuilder(
        image_uri=IMAGE,
        s3_model_data_url=uploaded(session, number),
        role_arn=ROLE,
        sagemaker_session=session,
        model_path=f"{os.environ['HOME']}/built",  # its default, in /tmp, belongs to the first user who builds
        instance_type=KIND,
        **more,
    )


def asynchronous(session):
    """Where outputs go is ModelBuilder's choice: the default bucket."""
    built = builder(session, 0)
    fitted = built.build(model_name=f"b-async-{RUN}")
    endpoint = built.deploy(endpoint_name=f"b-async-{RUN}", inference_config=AsyncInferenceConfig())
    source = put(session, f"b-async-{RUN}/iris.csv", TEXT)
    sent = endpoint.invoke_async(input_location=source, content_type="text/csv", accept="text/csv")
    assert sent.output_location.startswith(f"s3://{session.default_bucket()}/async-endpoint-outputs/")
    assert [int(float(word)) for word in content(session, sent.output_location).split()] == EXPECTED[0]
    gone(endpoint, fitted)


def captured(session):
    """Every exchange of a real-time endpoint kept.

    (To update an endpoint is left to Endpoint.update: ModelBuilder of sagemaker-serve 1.27 ends in TypeError.)
    """
    place = f"s3://{session.default_bucket()}/b-captured-{RUN}"
    built = builder(session, 0)
    fitted = built.build(model_name=f"b-captured-{RUN}")
    capture = DataCaptureConfig(True, 100, place, sagemaker_session=session)
    endpoint = built.deploy(endpoint_name=f"b-captured-{RUN}", data_capture_config=capture)
    assert numbers(endpoint.invoke(**AS_CSV)) == EXPECTED[0]
    kept = captured_first(session, f"b-captured-{RUN}/")
    assert [int(float(word)) for word in kept["endpointOutput"]["data"].split()] == EXPECTED[0]
    gone(endpoint, fitted)


def pipeline(session):
    """A model and a script with its model become one, their containers in a row; the same one transforms a file."""
    first = model(session, "b-labels", 0)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "inference.py").write_bytes(NAMES)
        scripted = builder(session, 1, source_code=SourceCode(source_dir=folder, entry_script="inference.py"))
        second = scripted.build(model_name=f"b-names-{RUN}")
    both = ModelBuilder(model=[first, second], role_arn=ROLE, sagemaker_session=session, instance_type=KIND)
    chained = both.build(model_name=f"b-pipeline-{RUN}")
    assert len(chained.containers) == 2
    endpoint = both.deploy(endpoint_name=f"b-pipeline-{RUN}", instance_type=KIND, initial_instance_count=1)
    expected = [("setosa", "versicolor", "virginica")[int(label)] for label in EXPECTED[0]]
    answer = endpoint.invoke(body=TEXT, content_type="text/csv")
    assert json.loads(answer.body.read()) == expected
    gone(endpoint)

    place = f"s3://{session.default_bucket()}/b-pipeline-{RUN}/out"
    transformer = both.deploy(
        inference_config=BatchTransformInferenceConfig(instance_count=1, instance_type=KIND, output_path=place)
    )
    source = put(session, f"b-pipeline-{RUN}/in/iris.csv", TEXT)
    transformer.transform(source, content_type="text/csv", wait=True, logs=False)
    assert json.loads(content(session, f"{place}/iris.csv.out")) == expected
    gone(chained, first, second)


def components(session):
    """One model after the other on the same endpoint, then two more as a list; the endpoint comes with the first."""
    endpoint_name = f"b-shared-{RUN}"
    built = builder(session, 0)
    models = [built.build(model_name=f"b-one-{RUN}")]
    endpoint = built.deploy(
        endpoint_name=endpoint_name, inference_config=NEEDS, inference_component_name=f"b-one-{RUN}"
    )
    listed = [builder(session, number) for number in (1, 2)]
    for number, one in enumerate(listed, 1):
        one.model_name = one.inference_component_name = f"b-listed-{number}-{RUN}"
        one.resource_requirements = NEEDS
    many = ModelBuilder(modelbuilder_list=listed, role_arn=ROLE, sagemaker_session=session, instance_type=KIND)
    many.build()
    many.deploy(endpoint_name=endpoint_name)
    models += [one.built_model for one in listed]
    names = [f"b-one-{RUN}", f"b-listed-1-{RUN}", f"b-listed-2-{RUN}"]
    parts = [InferenceComponent.get(inference_component_name=name) for name in names]
    for part, expected in zip(parts, EXPECTED, strict=True):
        part.wait_for_status("InService")
        answer = endpoint.invoke(**AS_CSV, inference_component_name=part.inference_component_name)
        assert numbers(answer) == expected
    for part in parts:
        part.delete()
        part.wait_for_delete()
    assert Endpoint.get(endpoint_name=endpoint_name).endpoint_status == "InService"
    gone(endpoint, *models)


def main():
    session = Session()
    for story in (asynchronous, captured, pipeline, components):
        story(session)
        print(f"{story.__name__}: done", flush=True)


if __name__ == "__main__":
    main()
