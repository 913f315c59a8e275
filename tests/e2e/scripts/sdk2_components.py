"""SageMaker Python SDK v2, two models as inference components of one endpoint."""

import os
import tarfile
import tempfile
import uuid
from pathlib import Path

import joblib
import sagemaker
import sklearn
from sagemaker.compute_resource_requirements.resource_requirements import ResourceRequirements
from sagemaker.deserializers import CSVDeserializer
from sagemaker.enums import EndpointType
from sagemaker.model import Model
from sagemaker.predictor import Predictor
from sagemaker.serializers import CSVSerializer
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

RUN = uuid.uuid4().hex[:8]
ROWS, LABELS = load_iris(return_X_y=True)
FITTED = LogisticRegression(max_iter=2000).fit(ROWS, LABELS)
KIND = "ml.m5.large"


def packed(session, folder, files):
    archive = folder / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as out:
        for name in files:
            out.add(folder / name, arcname=name)
    return session.upload_data(str(archive), key_prefix=f"ways-{RUN}/{uuid.uuid4().hex}")


def model(session, role, folder, name):
    joblib.dump(FITTED, folder / "model.joblib")
    return Model(
        image_uri=f"clary/sklearn:{sklearn.__version__}",
        model_data=packed(session, folder, ["model.joblib"]),
        role=role,
        sagemaker_session=session,
        predictor_cls=Predictor,
        name=f"{name}-{RUN}",
    )


def right(told):
    return [int(float(x)) for row in told for x in row] == FITTED.predict(ROWS).tolist()


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
