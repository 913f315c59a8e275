"""How image names become recipes: pure cases."""

from __future__ import annotations

import pytest

from clary.images import locks
from clary.images.catalogue import FRAMEWORKS
from clary.images.recipes import ImagesMode, Interpreter, Recipe, Refusal, explain, resolve, split_image

P311 = Interpreter("3.11.7", "/usr/bin/python3.11", "/usr")
P312 = Interpreter("3.12.4", "/usr/bin/python3.12", "/usr")
P313 = Interpreter("3.13.1", "/usr/bin/python3.13", "/usr")
ECR = "683313688378.dkr.ecr.us-east-1.amazonaws.com/"
TORCH = "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl"


def recipe(image: str, *interpreters: Interpreter, mode: ImagesMode = ImagesMode.NEAREST, wheels: str = "") -> Recipe:
    outcome = resolve(image, interpreters or (P311,), mode, local_wheels=wheels.split())
    assert isinstance(outcome, Recipe), outcome
    return outcome


CASES = [
    # image, framework, version on Python 3.11, substituted
    ("clary/sklearn", "sklearn", "1.9.1", None),
    ("clary/sklearn:latest", "sklearn", "1.9.1", None),
    ("clary/sklearn:1.5.2", "sklearn", "1.5.2", None),
    ("clary/sklearn:1.5", "sklearn", "1.5.2", None),
    ("clary/sklearn:1.5.1", "sklearn", "1.5.2", "1.5.1 -> 1.5.2"),
    ("clary/sklearn:1.7.9", "sklearn", "1.7.2", "1.7.9 -> 1.7.2"),
    ("clary/sklearn:0.24.2", "sklearn", "1.1.3", "0.24.2 -> 1.1.3"),
    ("clary/sklearn:9.9", "sklearn", "1.9.1", "9.9 -> 1.9.1"),
    ("clary/xgboost", "xgboost", "3.2.0", None),
    ("clary/lightgbm", "lightgbm", "4.7.0", None),
    ("clary/onnxruntime", "onnxruntime", "1.31.1", None),
    ("clary/pytorch", "pytorch", "2.13.0", None),
    ("clary/triton", "triton", "1.31.1", None),
    ("clary/triton-pytorch", "triton-pytorch", "2.13.0", None),
    (
        "785573368785.dkr.ecr.us-east-1.amazonaws.com/sagemaker-tritonserver:22.09-py3",
        "triton",
        "1.31.1",
        "Triton 22.09-py3 -> clary's model server with onnxruntime 1.31.1",
    ),
    (
        "registry.corp.example/sagemaker-tritonserver:25.04-py3-cpu",
        "triton",
        "1.31.1",
        "Triton 25.04-py3-cpu -> clary's model server with onnxruntime 1.31.1",
    ),
    ("sagemaker-tritonserver", "triton", "1.31.1", "Triton -> clary's model server with onnxruntime 1.31.1"),
    (ECR + "sagemaker-scikit-learn:1.2-1-cpu-py3", "sklearn", "1.2.1", None),
    (ECR + "sagemaker-scikit-learn:1.4-2-cpu-py3", "sklearn", "1.4.2", None),
    (ECR + "sagemaker-scikit-learn:0.23-1-cpu-py3", "sklearn", "1.1.3", "0.23-1 -> 1.1.3"),
    (ECR + "sagemaker-scikit-learn:1.7-3-cpu-py3", "sklearn", "1.7.2", None),
    (ECR + "sagemaker-xgboost:1.7-1", "xgboost", "1.7.4", None),
    (ECR + "sagemaker-xgboost:3.0-5", "xgboost", "3.0.5", None),
    (ECR + "sagemaker-xgboost:1.5-1-arm64", "xgboost", "1.5.2", None),
    (ECR + "sagemaker-xgboost:0.90-2-cpu-py3", "xgboost", "0.90", None),
    ("811284229777.dkr.ecr.us-east-1.amazonaws.com/xgboost:latest", "xgboost", "0.90", "latest -> 0.90"),
    ("763104351884.dkr.ecr.eu-west-1.amazonaws.com/pytorch-inference:2.6.0-cpu-py312", "pytorch", "2.6.0", None),
    (
        "1.dkr.ecr.cn-north-1.amazonaws.com.cn/pytorch-inference:2.5-gpu-py311-cu124",
        "pytorch",
        "2.5.1",
        None,
    ),
    ("clary/huggingface", "huggingface", "4.57.6", None),
    ("clary/huggingface:5", "huggingface", "5.23.0", None),
    ("clary/huggingface-tgi", "huggingface-tgi", "4.57.6", None),
    (
        "763104351884.dkr.ecr.us-east-1.amazonaws.com/"
        "huggingface-pytorch-inference:2.6.0-transformers4.49.0-cpu-py312-ubuntu22.04",
        "huggingface",
        "4.49.0",
        None,
    ),
    (
        "registry.corp.example/huggingface-pytorch-inference:2.1.0-transformers4.37.0-cpu-py310-ubuntu22.04",
        "huggingface",
        "4.37.2",
        "transformers 4.37.0 -> 4.37.2, torch 2.1.0 -> 2.2.2",
    ),
    (
        "763104351884.dkr.ecr.us-east-1.amazonaws.com/"
        "huggingface-pytorch-tgi-inference:2.7.0-tgi3.3.4-gpu-py311-cu124-ubuntu22.04",
        "huggingface-tgi",
        "4.57.6",
        "TGI 2.7.0-tgi3.3.4-gpu-py311-cu124-ubuntu22.04 -> clary's model server with transformers 4.57.6",
    ),
    ("registry.corp.example:5000/mirror/sagemaker-scikit-learn:1.2-1-cpu-py3", "sklearn", "1.2.1", None),
    ("sagemaker-scikit-learn:1.2-1-cpu-py3", "sklearn", "1.2.1", None),
    (ECR + "sagemaker-scikit-learn:1.2-1-cpu-py3@sha256:" + "0" * 64, "sklearn", "1.2.1", None),
]


@pytest.mark.parametrize(("image", "framework", "version", "substituted"), CASES)
def test_an_image_resolves_to_its_framework_and_version(
    image: str, framework: str, version: str, substituted: str | None
) -> None:
    found = recipe(image)
    assert (found.framework, found.framework_version, found.substituted) == (framework, version, substituted)
    assert found.resolved_image == f"clary/{framework}:{version}-py311@sha256:{found.digest}"


@pytest.mark.parametrize("image", [image for image, _, _, substituted in CASES if substituted])
def test_exact_mode_refuses_what_would_be_substituted(image: str) -> None:
    outcome = resolve(image, [P311], ImagesMode.EXACT)
    assert isinstance(outcome, Refusal)
    assert "images=exact" in outcome.reason
    assert outcome.tried


@pytest.mark.parametrize(
    ("image", "hint"),
    [
        ("nginx:latest", "clary/sklearn"),
        ("xgboost:latest", "clary/xgboost"),
        ("123456789012.dkr.ecr.us-east-1.amazonaws.com/my-own:1", "<registry>/sagemaker-scikit-learn"),
        ("clary/tensorflow", "clary/pytorch"),
        ("clary/sklearn:newest", "1.9.1"),
        (ECR + "sagemaker-scikit-learn:cpu", "1.2-1"),
        (ECR + "huggingface-pytorch-inference:4.49.0", "2.6.0-transformers4.49.0-cpu-py312"),
        (ECR + "huggingface-tensorflow-inference:2.11.1-transformers4.26.0-cpu-py39", "clary/huggingface"),
        ("", "clary/sklearn"),
    ],
)
def test_a_refusal_lists_what_was_tried(image: str, hint: str) -> None:
    outcome = resolve(image, [P311], ImagesMode.NEAREST)
    assert isinstance(outcome, Refusal)
    assert hint in outcome.tried
    assert image in str(outcome)


def test_without_a_python_nothing_resolves() -> None:
    outcome = resolve("clary/sklearn", [], ImagesMode.NEAREST)
    assert isinstance(outcome, Refusal)
    assert "none" in outcome.reason


def test_a_version_without_wheels_for_the_hosts_python_is_substituted() -> None:
    found = recipe(ECR + "sagemaker-scikit-learn:1.2-1-cpu-py3", P313)
    assert (found.framework_version, found.substituted) == ("1.5.2", "1.2-1 -> 1.5.2")


def test_an_older_python_of_the_host_is_taken_for_an_exact_version() -> None:
    found = recipe(ECR + "sagemaker-scikit-learn:1.2-1-cpu-py3", P313, P312, P311)
    assert (found.framework_version, found.python) == ("1.2.1", "3.11")


def test_the_python_of_the_tag_is_preferred_and_its_stand_in_noted() -> None:
    image = "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-inference:2.6.0-cpu-py312"
    assert recipe(image, P311, P312).python == "3.12"
    assert "Python 3.11 stands in for 3.12" in recipe(image, P311).notes


def test_gpu_and_arm_images_say_what_they_run_on() -> None:
    gpu = recipe("763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-inference:2.6.0-gpu-py311-cu124-ubuntu22.04")
    assert any("GPU" in note for note in gpu.notes)
    arm = recipe("763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-inference-graviton:2.4.0-cpu-py311")
    assert any("arm64" in note for note in arm.notes)


def test_torch_takes_what_the_users_wheel_folder_has() -> None:
    found = recipe("pytorch-inference:2.6.0-cpu-py312", P312, P311, wheels=TORCH)
    assert (found.framework_version, found.python, found.substituted) == ("2.13.0", "3.11", "2.6.0 -> 2.13.0")
    assert "torch==2.13.0" in found.requirements
    assert not found.locked


def test_equal_recipes_have_equal_digests_and_others_do_not() -> None:
    assert recipe("clary/sklearn").digest == recipe("clary/sklearn:1.9.1").digest
    digests = {recipe(f"clary/sklearn:{one.version}").digest for one in FRAMEWORKS["sklearn"].releases}
    assert len(digests) == len(FRAMEWORKS["sklearn"].releases)
    assert recipe("clary/sklearn", P312).digest != recipe("clary/sklearn", P311).digest


def test_explain_tells_the_whole_way() -> None:
    text = "\n".join(explain(ECR + "sagemaker-scikit-learn:0.23-1-cpu-py3", [P311], ImagesMode.NEAREST))
    for part in ("substituted  0.23-1 -> 1.1.3", "3.11.7", "package      numpy==1.26.4", "with hashes"):
        assert part in text
    refused = explain("nginx", [P311], ImagesMode.NEAREST)
    assert any(line.startswith("refused") for line in refused)
    assert sum(line.startswith("tried") for line in refused) > 5


@pytest.mark.parametrize(
    ("image", "want"),
    [
        ("a/b:c", ("", "a/b", "c")),
        ("localhost/a", ("localhost", "a", "")),
        ("host:5000/a/b", ("host:5000", "a/b", "")),
        ("host.example/a:1@sha256:00", ("host.example", "a", "1")),
    ],
)
def test_image_names_are_split_as_docker_does(image: str, want: tuple[str, str, str]) -> None:
    assert split_image(image) == want


def test_every_locked_release_is_pinned_with_hashes_and_can_serve() -> None:
    pins, hashes = locks.pins(), locks.hashes()
    for framework in FRAMEWORKS.values():
        for release in framework.releases if framework.locked else ():
            for python in release.pythons:
                found = pins[framework.locked_as or framework.name][release.version][python]
                assert set(release.requirements(python)) <= set(found), (framework.name, release.version, python)
                assert all(hashes[pin] for pin in found)
                assert not [pin for pin in found if pin.startswith(("nvidia", "cuda", "triton"))]


def test_repositories_for_triton_share_the_locks_of_onnxruntime() -> None:
    triton, plain = recipe("clary/triton"), recipe("clary/onnxruntime")
    assert triton.requirements == plain.requirements
    assert triton.locked
    assert triton.digest != plain.digest  # their workers are forked from interpreters of their own


def test_the_environment_of_torchscript_repositories_holds_both_libraries() -> None:
    found = recipe("clary/triton-pytorch", wheels=TORCH)
    names = {one.partition("==")[0] for one in found.requirements}
    assert {"torch", "onnxruntime", "numpy", "httptools"} <= names
    assert "scipy" not in names


HUGGINGFACE = ECR + "huggingface-pytorch-inference:2.6.0-transformers4.49.0-cpu-py311-ubuntu22.04"


def test_transformers_stands_on_the_torch_that_can_be_had() -> None:
    found = recipe(HUGGINGFACE, P312, P311, wheels=TORCH)
    assert (found.framework_version, found.python) == ("4.49.0", "3.11")
    assert found.substituted == "torch 2.6.0 -> 2.13.0"
    assert {"transformers==4.49.0", "torch==2.13.0", "sentencepiece==0.2.3"} <= set(found.requirements)
    assert len(found.requirements) == len(set(found.requirements))
    assert not found.locked
    exact = resolve(HUGGINGFACE, [P311], ImagesMode.EXACT, local_wheels=[TORCH])
    assert isinstance(exact, Refusal)
    assert "torch 2.6.0 has no wheels" in exact.reason
    assert isinstance(resolve(HUGGINGFACE, [P311], ImagesMode.EXACT), Recipe)


def test_transformers_5_is_not_put_on_a_torch_older_than_it_takes() -> None:
    old = "torch-2.2.2+cpu-cp311-cp311-linux_x86_64.whl"
    found = recipe("clary/huggingface:5.23.0", wheels=old)
    assert (found.framework_version, found.substituted) == ("4.57.6", "5.23.0 -> 4.57.6")
    assert "numpy==1.26.4" in found.requirements  # that torch's own time


def test_both_ways_of_asking_transformers_share_an_environment() -> None:
    first, second = recipe("clary/huggingface", wheels=TORCH), recipe("clary/huggingface-tgi", wheels=TORCH)
    assert first.digest == second.digest
    assert (first.framework, second.framework) == ("huggingface", "huggingface-tgi")
