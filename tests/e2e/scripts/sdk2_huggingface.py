"""SageMaker Python SDK v2 with HuggingFaceModel: model data, a hub's environment, an entry point, tokens as they come.

`python sdk2_huggingface.py FOLDER IMAGE`: FOLDER holds models and what transformers answers for them (expected.json).
"""

import json
import os
import sys
import tarfile
import tempfile
import uuid
from pathlib import Path

import sagemaker
from sagemaker.huggingface import HuggingFaceModel, get_huggingface_llm_image_uri
from sagemaker.iterators import LineIterator

FOLDER, IMAGE = Path(sys.argv[1]), sys.argv[2]
CASES = json.loads((FOLDER / "expected.json").read_text())["cases"]
RUN = uuid.uuid4().hex[:8]

INFERENCE = """
def predict_fn(data, pipeline):
    return {"best": max(pipeline(data["inputs"], top_k=None), key=lambda one: one["score"])["label"]}
"""


def packed(session, name, folder):
    path = folder / "model.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for file in sorted((FOLDER / name).iterdir()):
            archive.add(file, arcname=file.name)
    return session.upload_data(str(path), key_prefix=f"{name}-{RUN}")


def deployed(session, role, **options):
    model = HuggingFaceModel(role=role, image_uri=IMAGE, sagemaker_session=session, **options)
    return model, model.deploy(initial_instance_count=1, instance_type="ml.m5.large")


def near(found, wanted):
    assert found.keys() == wanted.keys(), (found, wanted)
    for name, value in wanted.items():
        same = abs(found[name] - value) < 1e-4 if isinstance(value, float) else found[name] == value
        assert same, (found, wanted)


def hub(session, role, folder):
    """The environment of a hub's model, and no model data."""
    told = CASES["text-classification"]
    for file in sorted((FOLDER / "classifier").iterdir()):
        session.upload_data(str(file), bucket="hub", key_prefix="snapshots/org/classifier")
    environment = {"HF_MODEL_ID": "org/classifier", "HF_TASK": "text-classification"}
    model, predictor = deployed(session, role, env=environment)
    near(predictor.predict({"inputs": told["inputs"]})[0], told["answer"][0])
    described = session.sagemaker_client.describe_model(ModelName=model.name)["PrimaryContainer"]
    assert "ModelDataUrl" not in described, described
    predictor.delete_model()
    predictor.delete_endpoint()


def entry_point(session, role, folder):
    """A script of one's own beside the weights: the SDK packs both into one archive."""
    source = folder / "source"
    source.mkdir()
    (source / "inference.py").write_text(INFERENCE)
    uri = packed(session, "classifier", folder)
    _, predictor = deployed(session, role, model_data=uri, entry_point="inference.py", source_dir=str(source))
    told = CASES["text-classification"]
    assert predictor.predict({"inputs": told["inputs"]}) == {"best": told["answer"][0]["label"]}
    predictor.delete_model()
    predictor.delete_endpoint()


def model_data(session, role, folder):
    """An archive that save_pretrained made, its task told by its config; tokens by the SDK's iterator over lines."""
    told = CASES["text-generation"]
    _, predictor = deployed(session, role, model_data=packed(session, "teller", folder))
    (whole,) = predictor.predict({"inputs": told["inputs"], "parameters": told["parameters"]})
    assert whole == told["answer"][0]
    answer = session.sagemaker_runtime_client.invoke_endpoint_with_response_stream(
        EndpointName=predictor.endpoint_name,
        ContentType="application/json",
        Body=json.dumps({"inputs": told["inputs"], "parameters": told["parameters"], "stream": True}),
    )
    lines = [json.loads(line[len(b"data:") :]) for line in LineIterator(answer["Body"]) if line.startswith(b"data:")]
    assert told["inputs"] + lines[-1]["generated_text"] == whole["generated_text"]
    assert len(lines) > 1
    predictor.delete_model()
    predictor.delete_endpoint()


def main():
    session = sagemaker.Session()
    role = os.environ["SAGEMAKER_ROLE"]
    assert "huggingface-pytorch-tgi-inference" in get_huggingface_llm_image_uri("huggingface", session)
    for story in (model_data, hub, entry_point):
        with tempfile.TemporaryDirectory() as folder:
            story(session, role, Path(folder))
        print(f"{story.__name__}: done", flush=True)


if __name__ == "__main__":
    main()
