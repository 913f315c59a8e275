"""SageMaker Python SDK v2, MultiDataModel: models from files and from S3, listed, asked for; one script for all."""

import os
import tarfile
import tempfile
import uuid
from pathlib import Path

import joblib
import numpy as np
import sagemaker
import sklearn
from sagemaker.deserializers import CSVDeserializer, JSONDeserializer
from sagemaker.multidatamodel import MultiDataModel
from sagemaker.predictor import Predictor
from sagemaker.serializers import CSVSerializer, JSONSerializer
from sagemaker.sklearn import SKLearnModel
from sklearn.datasets import load_iris
from sklearn.linear_model import LinearRegression, LogisticRegression

RUN = uuid.uuid4().hex[:8]

INFERENCE = """
import json
import os

import joblib


def model_fn(model_dir):
    return joblib.load(os.path.join(model_dir, "coefficients.bin"))


def output_fn(prediction, accept):
    return json.dumps({"slope times x": [float(one) for one in prediction]}), "application/json"
"""


def packed(folder, name, fitted, inside):
    joblib.dump(fitted, folder / inside)
    path = folder / f"{name}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder / inside, arcname=inside)
    return str(path)


def pickled(session, role, folder):
    """One endpoint for five cities; the fifth comes when the endpoint serves already, by a copy within S3."""
    rows, labels = load_iris(return_X_y=True)
    bucket = session.default_bucket()
    many = MultiDataModel(
        name=f"cities-{RUN}",
        model_data_prefix=f"s3://{bucket}/cities-{RUN}/",
        image_uri=f"clary/sklearn:{sklearn.__version__}",
        role=role,
        sagemaker_session=session,
        predictor_cls=Predictor,
    )
    fitted = {
        f"city-{n}.tar.gz": LogisticRegression(C=10.0 ** (n - 2), max_iter=2000).fit(rows, labels) for n in range(5)
    }
    files = {name: packed(folder, name.partition(".")[0], one, "model.joblib") for name, one in fitted.items()}
    for name in list(files)[:4]:
        many.add_model(files[name])
    predictor = many.deploy(1, "ml.m5.large", serializer=CSVSerializer(), deserializer=CSVDeserializer())
    elsewhere = session.upload_data(files["city-4.tar.gz"], bucket=bucket, key_prefix=f"elsewhere-{RUN}")
    many.add_model(elsewhere, "city-4.tar.gz")
    assert sorted(many.list_models()) == sorted(fitted), list(many.list_models())
    for name, one in fitted.items():
        found = [int(float(x)) for row in predictor.predict(rows, target_model=name) for x in row]
        assert found == one.predict(rows).tolist(), name
    predictor.delete_endpoint()
    many.delete_model()


def scripted(session, role, folder):
    """SKLearnModel lends its image and its entry point to all models of the prefix."""
    (folder / "inference.py").write_text(INFERENCE)
    prefix = f"s3://{session.default_bucket()}/scripted-{RUN}"
    model = SKLearnModel(
        model_data=f"{prefix}/0.tar.gz",
        role=role,
        entry_point=str(folder / "inference.py"),
        framework_version="1.2-1",
        py_version="py3",
        sagemaker_session=session,
        name=f"scripted-{RUN}",
    )
    many = MultiDataModel(f"scripted-{RUN}", f"{prefix}/", model=model, sagemaker_session=session)
    for slope in range(2):
        line = LinearRegression().fit(np.array([[0.0], [1.0]]), np.array([0.0, float(slope)]))
        many.add_model(packed(folder, str(slope), line, "coefficients.bin"))
    predictor = many.deploy(1, "ml.m5.large", serializer=JSONSerializer(), deserializer=JSONDeserializer())
    for slope in range(2):
        told = predictor.predict([[3.0], [4.0]], target_model=f"{slope}.tar.gz")["slope times x"]
        assert np.allclose(told, [3.0 * slope, 4.0 * slope]), told
    predictor.delete_endpoint()
    many.delete_model()


def main():
    session = sagemaker.Session()
    for story in (pickled, scripted):
        with tempfile.TemporaryDirectory() as folder:
            story(session, os.environ["SAGEMAKER_ROLE"], Path(folder))
        print(f"{story.__name__}: done", flush=True)


if __name__ == "__main__":
    main()
