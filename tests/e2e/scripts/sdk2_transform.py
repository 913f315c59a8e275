"""SageMaker Python SDK v2's Transformer: from a model's own transformer() and by name, waited for, with logs."""

import os
import tarfile
import tempfile
import uuid
from pathlib import Path

import numpy as np
import sagemaker
import xgboost
from sagemaker.model import Model
from sagemaker.s3 import S3Downloader
from sagemaker.transformer import Transformer
from sklearn.datasets import load_breast_cancer

RUN = uuid.uuid4().hex[:8]


def csv(rows, first=()):
    lines = [",".join(repr(float(x)) for x in row) for row in rows]
    return "\n".join(f"{name},{line}" for name, line in zip(first, lines, strict=True)) if first else "\n".join(lines)


def train(session, folder):
    rows, labels = load_breast_cancer(return_X_y=True)
    booster = xgboost.train({"objective": "binary:logistic", "seed": 3}, xgboost.DMatrix(rows, label=labels), 20)
    booster.save_model(folder / "model.ubj")
    archive = folder / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder / "model.ubj", arcname="xgboost-model")
    (folder / "rows.csv").write_text(csv(rows))
    (folder / "named.csv").write_text(csv(rows[:50], [f"patient-{n}" for n in range(50)]))
    uploaded = [session.upload_data(str(folder / name), key_prefix=f"t-{RUN}") for name in ("rows.csv", "named.csv")]
    return booster, rows, session.upload_data(str(archive), key_prefix=f"t-{RUN}"), uploaded


def numbers(text, column=0):
    return np.array([float(line.split(",")[column]) for line in text.splitlines()], dtype=np.float32)


def main():
    session = sagemaker.Session()
    with tempfile.TemporaryDirectory() as folder:
        booster, rows, data, (plain, named) = train(session, Path(folder))
    model = Model(
        image_uri=sagemaker.image_uris.retrieve("xgboost", "us-east-1", version="3.0-5"),
        model_data=data,
        role=os.environ["SAGEMAKER_ROLE"],
        sagemaker_session=session,
        name=f"t-{RUN}",
    )
    output = f"s3://{session.default_bucket()}/t-{RUN}/out"
    transformer = model.transformer(1, "ml.m5.large", strategy="MultiRecord", assemble_with="Line", output_path=output)
    transformer.transform(plain, content_type="text/csv", split_type="Line", wait=True, logs=True)
    found = numbers(S3Downloader.read_file(f"{output}/rows.csv.out", sagemaker_session=session))
    expected = booster.predict(xgboost.DMatrix(rows))
    np.testing.assert_array_equal(found, expected)
    print("transformer: done", flush=True)

    joining = Transformer(
        f"t-{RUN}", 1, "ml.m5.large", assemble_with="Line", accept="text/csv", output_path=output, env={"MINE": "1"}
    )
    joining.transform(
        named,
        content_type="text/csv",
        split_type="Line",
        input_filter="$[1:]",
        join_source="Input",
        output_filter="$[0,-1]",
        wait=False,
    )
    again = Transformer.attach(joining.latest_transform_job.name, session)
    again.wait(logs=False)
    text = S3Downloader.read_file(f"{output}/named.csv.out", sagemaker_session=session)
    assert [line.split(",")[0] for line in text.splitlines()] == [f"patient-{n}" for n in range(50)]
    np.testing.assert_array_equal(numbers(text, 1), expected[:50])
    model.delete_model()
    print("joined: done", flush=True)


if __name__ == "__main__":
    main()
