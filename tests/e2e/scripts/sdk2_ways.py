"""SageMaker Python SDK v2, the other ways to infer: asynchronous, captured, streamed."""

import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import sagemaker
import sklearn
from sagemaker.async_inference import AsyncInferenceConfig, WaiterConfig
from sagemaker.deserializers import CSVDeserializer
from sagemaker.model import Model
from sagemaker.model_monitor import DataCaptureConfig
from sagemaker.predictor import Predictor
from sagemaker.s3 import S3Downloader
from sagemaker.serializers import CSVSerializer
from sdk2_models import KIND, ROWS, RUN, model, packed, right

WORDS = """
def model_fn(model_dir):
    return None

def predict_fn(data, model):
    return (f"word {number} ".encode() for number in range(3))

def input_fn(body, content_type):
    return body

def output_fn(prediction, accept):
    return prediction, "text/plain"
"""


def asynchronous(session, role, folder):
    """Results waited for and asked for later; then the variant may scale to zero, does, and is back for a request."""
    bucket = session.default_bucket()
    predictor = model(session, role, folder, "async").deploy(
        1,
        KIND,
        endpoint_name=f"async-{RUN}",
        serializer=CSVSerializer(),
        deserializer=CSVDeserializer(),
        async_inference_config=AsyncInferenceConfig(output_path=f"s3://{bucket}/ways-{RUN}/out"),
        tags=[{"Key": "clary:keep-alive-s", "Value": "0.5"}],
    )
    waiting = WaiterConfig(max_attempts=60, delay=1)
    assert right(predictor.predict(ROWS, waiter_config=waiting))
    later = [predictor.predict_async(ROWS) for _ in range(3)]
    assert all(right(one.get_result(waiting)) for one in later)
    session.boto_session.client("application-autoscaling").register_scalable_target(
        ServiceNamespace="sagemaker",
        ResourceId=f"endpoint/async-{RUN}/variant/AllTraffic",
        ScalableDimension="sagemaker:variant:DesiredInstanceCount",
        MinCapacity=0,
        MaxCapacity=2,
    )
    deadline = time.monotonic() + 120
    while (told := session.describe_endpoint(f"async-{RUN}"))["ProductionVariants"][0]["CurrentInstanceCount"]:
        assert time.monotonic() < deadline, told
        time.sleep(0.2)
    assert right(predictor.predict(ROWS, waiter_config=waiting))
    predictor.delete_endpoint()


def captured(session, role, folder):
    place = f"s3://{session.default_bucket()}/ways-{RUN}/captured"
    predictor = model(session, role, folder, "captured").deploy(
        1,
        KIND,
        serializer=CSVSerializer(),
        deserializer=CSVDeserializer(),
        data_capture_config=DataCaptureConfig(True, sampling_percentage=100, destination_s3_uri=place),
    )
    assert right(predictor.predict(ROWS))
    deadline = time.monotonic() + 120
    while not (found := S3Downloader.list(place, sagemaker_session=session)):
        assert time.monotonic() < deadline, "nothing was captured"
        time.sleep(0.5)
    record = json.loads(S3Downloader.read_file(found[0], sagemaker_session=session).splitlines()[0])
    sent = [[float(x) for x in line.split(",")] for line in record["captureData"]["endpointInput"]["data"].splitlines()]
    assert np.allclose(sent, ROWS)
    predictor.delete_endpoint()


def streamed(session, role, folder):
    (folder / "code").mkdir()
    (folder / "code" / "inference.py").write_text(WORDS)
    predictor = Model(
        image_uri=f"clary/sklearn:{sklearn.__version__}",
        model_data=packed(session, folder, ["code/inference.py"]),
        role=role,
        sagemaker_session=session,
        predictor_cls=Predictor,
        name=f"streamed-{RUN}",
    ).deploy(1, KIND, serializer=CSVSerializer())
    pieces = list(predictor.predict_stream("go"))
    assert b"".join(pieces) == b"word 0 word 1 word 2 ", pieces
    predictor.delete_endpoint()


def main():
    session = sagemaker.Session()
    for story in (asynchronous, captured, streamed):
        with tempfile.TemporaryDirectory() as folder:
            story(session, os.environ["SAGEMAKER_ROLE"], Path(folder))
        print(f"{story.__name__}: done", flush=True)


if __name__ == "__main__":
    main()
