"""What HF_MODEL_ID names."""

from __future__ import annotations

import pytest

from clary.domain.errors import Invalid
from clary.domain.hub_model import HubModel, absent, hub_model_of, is_hugging_face, prefix_of

ECR = "763104351884.dkr.ecr.us-east-1.amazonaws.com/"
IMAGE = ECR + "huggingface-pytorch-inference:2.6.0-transformers4.49.0-cpu-py312-ubuntu22.04"


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (IMAGE, True),
        ("clary/huggingface", True),
        ("clary/huggingface-tgi:4.57.6", True),
        ("localhost:5000/mirror/huggingface-pytorch-tgi-inference@sha256:" + "0" * 64, True),
        (ECR + "pytorch-inference:2.6.0-cpu-py312", False),
        ("huggingface.example/sagemaker-scikit-learn:1.2-1", False),
    ],
)
def test_an_image_is_hugging_faces_by_its_repository(image: str, expected: bool) -> None:
    assert is_hugging_face(image) is expected


@pytest.mark.parametrize(
    ("environment", "prefix", "model"),
    [
        ({}, "", None),
        ({"HF_MODEL_ID": "s3://models/bert"}, "s3://models/bert/", None),
        ({"HF_MODEL_ID": "s3://models/bert/"}, "s3://models/bert/", None),
        ({"HF_MODEL_ID": "/opt/ml/model"}, "", None),
        ({"HF_MODEL_ID": "org/model"}, "", HubModel("org/model")),
        ({"HF_MODEL_ID": "gpt2", "HF_MODEL_REVISION": "v2"}, "", HubModel("gpt2", "v2")),
    ],
)
def test_a_model_is_a_prefix_a_name_or_the_model_data(
    environment: dict[str, str], prefix: str, model: HubModel | None
) -> None:
    assert prefix_of(IMAGE, environment) == prefix
    assert hub_model_of(IMAGE, environment) == model
    assert prefix_of("clary/sklearn", environment) == ""
    assert hub_model_of("clary/sklearn", environment) is None


@pytest.mark.parametrize("name", ["../secret", "org/../model", "a/b/c", "org/", ".hidden", "http://hub/x", "a b"])
def test_what_is_no_name_is_refused_before_it_becomes_a_path(name: str) -> None:
    with pytest.raises(Invalid, match="neither org/model"):
        hub_model_of(IMAGE, {"HF_MODEL_ID": name})


def test_a_revision_is_a_folder_of_its_own() -> None:
    assert HubModel("org/model").folder == "org/model"
    assert HubModel("org/model", "v2").folder == "org/model@v2"
    assert HubModel("org/model").cache_folder == "models--org--model"
    with pytest.raises(Invalid, match="no branch"):
        hub_model_of(IMAGE, {"HF_MODEL_ID": "org/model", "HF_MODEL_REVISION": "../v2"})


def test_an_absent_model_is_told_with_where_it_was_looked_for() -> None:
    assert "CLARY_HUGGING_FACE_MODELS" in absent(HubModel("org/model"), "", ())
    told = absent(HubModel("org/model", "v2"), "s3://hub/", ("s3://hub/org/model@v2/",))
    assert "at v2" in told
    assert "tried s3://hub/org/model@v2/" in told
