"""What the scripts for SDK v3 share: iris, models fitted to it, archives in the default bucket, answers as numbers."""

import io
import json
import os
import tarfile
import time
import uuid

import joblib
from sagemaker.core.resources import Endpoint, EndpointConfig, Model
from sagemaker.core.shapes import ContainerDefinition, ProductionVariant
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

RUN = uuid.uuid4().hex[:8]
ROLE = os.environ["SAGEMAKER_ROLE"]
IMAGE = "clary/sklearn:1.9.1"
KIND = "ml.m5.large"
ROWS, LABELS = load_iris(return_X_y=True)
# No two of them predict the same, so an answer tells which of them gave it.
FITTED = [LogisticRegression(C=c, max_iter=2000).fit(ROWS, LABELS) for c in (0.001, 0.01, 100.0)]
EXPECTED = [one.predict(ROWS).tolist() for one in FITTED]
TEXT = "\n".join(",".join(repr(float(x)) for x in row) for row in ROWS)


def put(session, key, body):
    """The URI of an object in the default bucket."""
    bucket = session.default_bucket()
    session.boto_session.client("s3").put_object(Bucket=bucket, Key=key, Body=body)
    return f"s3://{bucket}/{key}"


def pickled(model):
    """The bytes of `model` as joblib writes them."""
    file = io.BytesIO()
    joblib.dump(model, file)
    return file.getvalue()


def archive(files):
    """A model.tar.gz of {name: bytes}."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as out:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            out.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def uploaded(session, number):
    """The URI of the archive of FITTED[number]."""
    return put(session, f"iris-{RUN}/{number}/model.tar.gz", archive({"model.joblib": pickled(FITTED[number])}))


def model(session, name, number):
    """FITTED[number] as a core resource."""
    return Model.create(
        model_name=f"{name}-{RUN}",
        primary_container=ContainerDefinition(image=IMAGE, model_data_url=uploaded(session, number)),
        execution_role_arn=ROLE,
    )


def config(name, *variants, **more):
    """An endpoint configuration of {variant: model}, an instance each."""
    return EndpointConfig.create(
        endpoint_config_name=f"{name}-{RUN}",
        production_variants=[
            ProductionVariant(
                variant_name=variant,
                model_name=model_name,
                instance_type=KIND,
                initial_instance_count=1,
                initial_variant_weight=1.0,
            )
            for variant, model_name in variants
        ],
        **more,
    )


def numbers(answer):
    """The labels in a text/csv answer."""
    return [int(float(word)) for word in answer.body.read().decode().replace(",", " ").split()]


def serving(name, configured):
    endpoint = Endpoint.create(endpoint_name=f"{name}-{RUN}", endpoint_config_name=configured.endpoint_config_name)
    endpoint.wait_for_status("InService")
    return endpoint


def gone(*resources):
    """Deletes them in this order."""
    for resource in resources:
        resource.delete()


def content(session, uri):
    """The bytes of an object that is to come."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    s3 = session.boto_session.client("s3")
    s3.get_waiter("object_exists").wait(Bucket=bucket, Key=key, WaiterConfig={"Delay": 1, "MaxAttempts": 120})
    return s3.get_object(Bucket=bucket, Key=key)["Body"].read()


def captured_first(session, prefix):
    """The first exchange captured below `prefix` of the default bucket."""
    s3, bucket = session.boto_session.client("s3"), session.default_bucket()
    deadline = time.monotonic() + 120
    while not (found := s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents")):
        assert time.monotonic() < deadline, f"nothing was captured below {prefix}"
        time.sleep(0.5)
    lines = s3.get_object(Bucket=bucket, Key=found[0]["Key"])["Body"].read().splitlines()
    return json.loads(lines[0])["captureData"]
