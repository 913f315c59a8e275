"""SageMaker Python SDK v2, PipelineModel: a scaler in a script, XGBoost behind it; deployed, asked, transformed.

And the same two containers in direct mode, each asked by its host name.
"""

import os
import tarfile
import tempfile
import uuid
from pathlib import Path

import joblib
import numpy as np
import sagemaker
import xgboost
from sagemaker.deserializers import CSVDeserializer
from sagemaker.model import Model
from sagemaker.pipeline import PipelineModel
from sagemaker.predictor import Predictor
from sagemaker.serializers import CSVSerializer
from sagemaker.sklearn import SKLearnModel
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import StandardScaler

RUN = uuid.uuid4().hex[:8]

SCRIPT = """
import os

import joblib


def model_fn(model_dir):
    return joblib.load(os.path.join(model_dir, "scaler.bin"))


def predict_fn(data, model):
    return model.transform(data)
"""


def packed(session, folder, name, inside):
    path = folder / f"{name}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder / inside, arcname=inside)
    return session.upload_data(str(path), key_prefix=f"pipeline-{RUN}")


def parts(session, role, folder):
    """Both models as the SDK has them, the rows, and what the libraries themselves predict."""
    rows, labels = load_breast_cancer(return_X_y=True)
    rows = rows.astype(np.float32)  # as the scikit-learn container reads text
    scaler = StandardScaler().fit(rows)
    booster = xgboost.train(
        {"objective": "binary:logistic", "seed": 7}, xgboost.DMatrix(scaler.transform(rows), labels), 20
    )
    joblib.dump(scaler, folder / "scaler.bin")
    booster.save_model(folder / "booster.ubj")
    os.rename(folder / "booster.ubj", folder / "xgboost-model")
    (folder / "inference.py").write_text(SCRIPT)
    first = SKLearnModel(
        model_data=packed(session, folder, "scaler", "scaler.bin"),
        role=role,
        entry_point=str(folder / "inference.py"),
        framework_version="1.2-1",
        py_version="py3",
        sagemaker_session=session,
        env={"SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": "text/csv"},
        name=f"scaler-{RUN}",
    )
    image = sagemaker.image_uris.retrieve("xgboost", session.boto_region_name, version="3.0-5")
    second = Model(
        image_uri=image,
        model_data=packed(session, folder, "booster", "xgboost-model"),
        role=role,
        sagemaker_session=session,
        name=f"booster-{RUN}",
    )
    return first, second, rows, booster.predict(xgboost.DMatrix(scaler.transform(rows)))


def numbers(answer):
    return np.array([float(x) for row in answer for x in row])


def pipeline(session, role, folder):
    """PipelineModel.deploy, predict, and a batch transform of the same model."""
    first, second, rows, expected = parts(session, role, folder)
    model = PipelineModel(
        models=[first, second],
        role=role,
        predictor_cls=Predictor,
        name=f"pipeline-{RUN}",
        sagemaker_session=session,
    )
    predictor = model.deploy(1, "ml.m5.large", endpoint_name=f"pipeline-{RUN}")
    predictor.serializer, predictor.deserializer = CSVSerializer(), CSVDeserializer()
    np.testing.assert_allclose(numbers(predictor.predict(rows[:60])), expected[:60], rtol=1e-6)
    told = session.sagemaker_client.describe_model(ModelName=f"pipeline-{RUN}")
    assert len(told["Containers"]) == 2, told

    source = folder / "rows.csv"
    source.write_text("\n".join(",".join(repr(float(x)) for x in row) for row in rows))
    transformer = model.transformer(1, "ml.m5.large", accept="text/csv", assemble_with="Line", strategy="MultiRecord")
    transformer.transform(
        session.upload_data(str(source), key_prefix=f"rows-{RUN}"),
        content_type="text/csv",
        split_type="Line",
        wait=True,
    )
    uri = f"{transformer.output_path}/rows.csv.out"
    lines = sagemaker.s3.S3Downloader.read_file(uri, sagemaker_session=session).split()
    np.testing.assert_allclose([float(line) for line in lines], expected, rtol=1e-6)
    predictor.delete_endpoint()
    return model, rows, expected


def direct(session, role, model, rows, expected):
    """The pipeline's containers, each by its host name.

    (The SDK makes the definitions and the endpoint. The mode only boto3 can set: Session.create_model has no argument.)
    """
    containers = model.pipeline_container_def("ml.m5.large")
    for container, host in zip(containers, ("scaler", "booster"), strict=True):
        container["ContainerHostname"] = host
    session.sagemaker_client.create_model(
        ModelName=f"direct-{RUN}",
        ExecutionRoleArn=role,
        Containers=containers,
        InferenceExecutionConfig={"Mode": "Direct"},
    )
    variant = sagemaker.production_variant(f"direct-{RUN}", "ml.m5.large", 1)
    session.endpoint_from_production_variants(f"direct-{RUN}", [variant])
    predictor = Predictor(f"direct-{RUN}", session, serializer=CSVSerializer(), deserializer=CSVDeserializer())
    scaled = predictor.predict(rows[:60], initial_args={"TargetContainerHostname": "scaler"})
    found = predictor.predict(scaled, initial_args={"TargetContainerHostname": "booster"})
    np.testing.assert_allclose(numbers(found), expected[:60], rtol=1e-6)
    predictor.delete_model()
    predictor.delete_endpoint()


def main():
    session = sagemaker.Session()
    role = os.environ["SAGEMAKER_ROLE"]
    with tempfile.TemporaryDirectory() as folder:
        model, *known = pipeline(session, role, Path(folder))
        print("pipeline: done", flush=True)
        direct(session, role, model, *known)
        print("direct: done", flush=True)
    model.delete_model()


if __name__ == "__main__":
    main()
