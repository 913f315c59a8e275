"""SageMaker Python SDK v2 with XGBoost: XGBoostModel with a script, and AWS's image in two regions without one."""

import os
import tarfile
import tempfile
import uuid
from pathlib import Path

import boto3
import numpy as np
import sagemaker
import xgboost
from sagemaker.deserializers import CSVDeserializer, JSONDeserializer
from sagemaker.model import Model
from sagemaker.predictor import Predictor
from sagemaker.serializers import CSVSerializer, LibSVMSerializer
from sagemaker.xgboost import XGBoostModel
from sklearn.datasets import load_breast_cancer

RUN = uuid.uuid4().hex[:8]

SCRIPT = """
import os

import xgboost


def model_fn(model_dir):
    booster = xgboost.Booster()
    booster.load_model(os.path.join(model_dir, "xgboost-model"))
    return booster
"""


def train(folder):
    rows, labels = load_breast_cancer(return_X_y=True)
    matrix = xgboost.DMatrix(rows, label=labels)
    booster = xgboost.train({"objective": "binary:logistic", "max_depth": 4, "seed": 7}, matrix, num_boost_round=30)
    booster.save_model(folder / "model.ubj")
    archive = folder / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder / "model.ubj", arcname="xgboost-model")
    return booster, rows, archive


def libsvm(rows):
    return "\n".join("0 " + " ".join(f"{i}:{float(x)!r}" for i, x in enumerate(row) if x) for row in rows)


def numbers(answer):
    return np.array([float(x) for row in answer for x in row], dtype=np.float32)


def script_mode(role, folder):
    """XGBoostModel: its script is fetched beside the model; libsvm goes in and CSV comes out, as the SDK has it."""
    session = sagemaker.Session()
    booster, rows, archive = train(folder)
    (folder / "inference.py").write_text(SCRIPT)
    model = XGBoostModel(
        model_data=session.upload_data(str(archive), key_prefix=f"xgb-{RUN}"),
        role=role,
        entry_point=str(folder / "inference.py"),
        framework_version="3.0-5",
        sagemaker_session=session,
        name=f"xgb-script-{RUN}",
    )
    predictor = model.deploy(1, "ml.m5.large", endpoint_name=f"xgb-script-{RUN}")
    expected = booster.predict(xgboost.DMatrix(rows[:40]))
    assert isinstance(predictor.serializer, LibSVMSerializer)
    np.testing.assert_array_equal(numbers(predictor.predict(libsvm(rows[:40]))), expected)
    predictor.serializer = CSVSerializer()
    np.testing.assert_array_equal(numbers(predictor.predict(rows[:40])), expected)
    predictor.delete_model()
    predictor.delete_endpoint()


def region(name, role, folder):
    """AWS's own image of that region, the model zero-code; the same names live in both regions at once."""
    session = sagemaker.Session(boto3.Session(region_name=name))
    booster, rows, archive = train(folder)
    image = sagemaker.image_uris.retrieve("xgboost", name, version="3.0-5")
    assert name in image, image
    model = Model(
        image_uri=image,
        model_data=session.upload_data(str(archive), key_prefix=f"xgb-{RUN}"),
        role=role,
        predictor_cls=Predictor,
        sagemaker_session=session,
        name=f"xgb-{RUN}",
    )
    predictor = model.deploy(
        1, "ml.m5.large", endpoint_name=f"xgb-{RUN}", serializer=CSVSerializer(), deserializer=CSVDeserializer()
    )
    arn = session.sagemaker_client.describe_endpoint(EndpointName=f"xgb-{RUN}")["EndpointArn"]
    assert f":{name}:" in arn, arn
    expected = booster.predict(xgboost.DMatrix(rows))
    np.testing.assert_array_equal(numbers(predictor.predict(rows)), expected)
    predictor.deserializer = JSONDeserializer()
    np.testing.assert_array_equal(np.array(predictor.predict(rows[:5]), dtype=np.float32), expected[:5])
    return predictor


def main():
    role = os.environ["SAGEMAKER_ROLE"]
    with tempfile.TemporaryDirectory() as folder:
        script_mode(role, Path(folder))
    print("script_mode: done", flush=True)
    predictors = []
    for name in ("us-east-1", "ap-northeast-1"):
        with tempfile.TemporaryDirectory() as folder:
            predictors.append(region(name, role, Path(folder)))
        print(f"{name}: done", flush=True)
    for predictor in predictors:
        predictor.delete_model()
        predictor.delete_endpoint()


if __name__ == "__main__":
    main()
