"""What the scripts for SDK v2 share: a model of iris, its archive in the default bucket, what it should answer."""

import tarfile
import uuid

import joblib
import sklearn
from sagemaker.model import Model
from sagemaker.predictor import Predictor
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

RUN = uuid.uuid4().hex[:8]
ROWS, LABELS = load_iris(return_X_y=True)
FITTED = LogisticRegression(max_iter=2000).fit(ROWS, LABELS)
KIND = "ml.m5.large"


def packed(session, folder, files):
    """The URI of an archive of files in `folder`."""
    archive = folder / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as out:
        for name in files:
            out.add(folder / name, arcname=name)
    return session.upload_data(str(archive), key_prefix=f"ways-{RUN}/{uuid.uuid4().hex}")


def model(session, role, folder, name):
    """FITTED as the SDK's Model, not created yet."""
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
    """Whether rows of answers to ROWS are FITTED's."""
    return [int(float(x)) for row in told for x in row] == FITTED.predict(ROWS).tolist()
