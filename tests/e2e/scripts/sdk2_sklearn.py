"""SageMaker Python SDK v2 with scikit-learn: what a user's notebook does, from a fitted model to a deleted endpoint."""

import json
import os
import tarfile
import tempfile
import uuid
from pathlib import Path

import boto3
import joblib
import numpy as np
import sagemaker
import sklearn
from sagemaker.deserializers import CSVDeserializer, JSONDeserializer
from sagemaker.model import Model
from sagemaker.predictor import Predictor
from sagemaker.serializers import CSVSerializer, JSONSerializer, NumpySerializer
from sagemaker.serverless import ServerlessInferenceConfig
from sagemaker.sklearn import SKLearnModel
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

# The version of AWS's container that holds the scikit-learn that trains here.
CONTAINER = {"1.2.1": "1.2-1", "1.4.2": "1.4-2"}.get(sklearn.__version__)
RUN = uuid.uuid4().hex[:8]

INFERENCE = '''
"""Coefficients from a JSON file: a script's model_fn may build its model from anything."""
import io
import json
import os

import numpy as np

from words import NAMES


def model_fn(model_dir):
    with open(os.path.join(model_dir, "coefficients.json")) as file:
        found = json.load(file)
    return np.array(found["coefficients"]), np.array(found["intercept"])


def predict_fn(rows, model):
    coefficients, intercept = model
    return np.argmax(np.asarray(rows) @ coefficients.T + intercept, axis=1)


def output_fn(prediction, accept):
    if accept == "application/json":
        return json.dumps([NAMES[int(one)] for one in prediction]), accept
    if accept == "application/x-npy":
        out = io.BytesIO()
        np.save(out, prediction)
        return out.getvalue(), accept
    return ",".join(str(int(one)) for one in prediction), "text/csv"
'''


def packed(folder, **files):
    path = folder / "model.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, file in files.items():
            archive.add(file, arcname=name.replace("__", "."))
    return path


def script_mode(session, role, rows, labels, folder):
    """SKLearnModel with an entry point of several files; every serializer; delete."""
    fitted = LogisticRegression(max_iter=500).fit(rows, labels)
    names = load_iris().target_names.tolist()
    source = folder / "src"
    source.mkdir()
    (source / "inference.py").write_text(INFERENCE)
    (source / "words.py").write_text(f"NAMES = {names!r}\n")
    coefficients = folder / "coefficients.json"
    coefficients.write_text(
        json.dumps({"coefficients": fitted.coef_.tolist(), "intercept": fitted.intercept_.tolist()})
    )
    uri = session.upload_data(
        str(packed(folder, coefficients__json=coefficients)),
        key_prefix=f"script-{RUN}",
        bucket=session.default_bucket(),
    )
    model = SKLearnModel(
        model_data=uri,
        role=role,
        entry_point="inference.py",
        source_dir=str(source),
        framework_version="1.2-1",
        py_version="py3",
        sagemaker_session=session,
        name=f"script-{RUN}",
    )
    predictor = model.deploy(initial_instance_count=1, instance_type="ml.m5.large", endpoint_name=f"script-{RUN}")
    expected = fitted.predict(rows)
    # The SDK's own serializer for scikit-learn: NumPy both ways.
    assert predictor.predict(rows).tolist() == expected.tolist()
    predictor.serializer, predictor.deserializer = CSVSerializer(), CSVDeserializer()
    assert [int(x) for x in predictor.predict(rows[::10])[0]] == expected[::10].tolist()
    predictor.serializer, predictor.deserializer = JSONSerializer(), JSONDeserializer()
    assert predictor.predict(rows[::10].tolist()) == [names[one] for one in expected[::10]]
    environment = session.sagemaker_client.describe_model(ModelName=model.name)["PrimaryContainer"]["Environment"]
    assert environment["SAGEMAKER_SUBMIT_DIRECTORY"].startswith(f"s3://{session.default_bucket()}/"), environment
    predictor.delete_model()
    predictor.delete_endpoint()
    assert session.sagemaker_client.list_models(NameContains=f"script-{RUN}")["Models"] == []


def pickled(session, role, rows, labels, folder):
    """A joblib file and an image URI; a predictor attached by name; an update to two bigger instances; delete."""
    fitted = RandomForestClassifier(50, random_state=1).fit(rows, labels)
    joblib.dump(fitted, folder / "model.joblib")
    uri = session.upload_data(str(packed(folder, model__joblib=folder / "model.joblib")), key_prefix=f"forest-{RUN}")
    if CONTAINER:
        image = sagemaker.image_uris.retrieve(
            "sklearn", session.boto_region_name, version=CONTAINER, instance_type="ml.m5.large"
        )
    else:
        image = f"clary/sklearn:{sklearn.__version__}"
    model = Model(
        image_uri=image,
        model_data=uri,
        role=role,
        sagemaker_session=session,
        predictor_cls=Predictor,
        name=f"forest-{RUN}",
    )
    predictor = model.deploy(
        initial_instance_count=1,
        instance_type="ml.m5.large",
        endpoint_name=f"forest-{RUN}",
        serializer=CSVSerializer(),
        deserializer=JSONDeserializer(),
        tags=[{"Key": "team", "Value": "iris"}],
    )
    expected = fitted.predict(rows)
    assert np.array(predictor.predict(rows)).ravel().tolist() == expected.tolist()
    again = Predictor(f"forest-{RUN}", session, serializer=NumpySerializer(), deserializer=CSVDeserializer())
    found = [float(x) for row in again.predict(rows) for x in row]
    assert found == expected.astype(float).tolist(), found[:5]
    predictor.update_endpoint(initial_instance_count=2, instance_type="ml.m5.xlarge")
    described = session.sagemaker_client.describe_endpoint(EndpointName=f"forest-{RUN}")
    assert described["EndpointStatus"] == "InService"
    assert described["ProductionVariants"][0]["CurrentInstanceCount"] == 2
    config = session.sagemaker_client.describe_endpoint_config(EndpointConfigName=described["EndpointConfigName"])
    assert config["ProductionVariants"][0]["InstanceType"] == "ml.m5.xlarge"
    assert np.array(predictor.predict(rows[:3])).ravel().tolist() == expected[:3].tolist()
    predictor.delete_model()
    predictor.delete_endpoint(delete_endpoint_config=True)
    for left in (
        session.sagemaker_client.list_endpoints(NameContains=f"forest-{RUN}", StatusEquals="InService")["Endpoints"],
        session.sagemaker_client.list_models(NameContains=f"forest-{RUN}")["Models"],
    ):
        assert left == [], left
    return model


def serverless(session, role, rows, labels, folder):
    """ServerlessInferenceConfig, one worker provisioned, in a session of the role itself as a notebook has it."""
    lent = session.boto_session.client("sts").assume_role(RoleArn=role, RoleSessionName="notebook")["Credentials"]
    session = sagemaker.Session(
        boto3.Session(lent["AccessKeyId"], lent["SecretAccessKey"], lent["SessionToken"], session.boto_region_name)
    )
    assert sagemaker.get_execution_role(session) == role
    fitted = RandomForestClassifier(20, random_state=2).fit(rows, labels)
    joblib.dump(fitted, folder / "model.joblib")
    uri = session.upload_data(
        str(packed(folder, model__joblib=folder / "model.joblib")), key_prefix=f"serverless-{RUN}"
    )
    model = Model(
        image_uri=f"clary/sklearn:{sklearn.__version__}",
        model_data=uri,
        role=role.rpartition("/")[2],
        sagemaker_session=session,
        predictor_cls=Predictor,
    )
    predictor = model.deploy(
        serverless_inference_config=ServerlessInferenceConfig(
            memory_size_in_mb=2048, max_concurrency=3, provisioned_concurrency=1
        ),
        endpoint_name=f"serverless-{RUN}",
        serializer=CSVSerializer(),
        deserializer=CSVDeserializer(),
    )
    found = [float(x) for row in predictor.predict(rows[:20]) for x in row]
    assert found == fitted.predict(rows[:20]).astype(float).tolist()
    described = session.sagemaker_client.describe_endpoint(EndpointName=f"serverless-{RUN}")
    assert described["ProductionVariants"][0]["CurrentServerlessConfig"]["ProvisionedConcurrency"] == 1
    predictor.delete_endpoint()
    model.delete_model()


def main():
    session = sagemaker.Session()
    role = os.environ["SAGEMAKER_ROLE"]
    assert session.account_id() == role.split(":")[4], (session.account_id(), role)
    assert session.default_bucket() == f"sagemaker-{session.boto_region_name}-{session.account_id()}"
    rows, labels = load_iris(return_X_y=True)
    for story in (pickled, script_mode, serverless):
        with tempfile.TemporaryDirectory() as folder:
            story(session, role, rows, labels, Path(folder))
        print(f"{story.__name__}: done", flush=True)


if __name__ == "__main__":
    main()
