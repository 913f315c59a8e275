"""Which framework releases clary can serve with, and what each is put together with.

Data only. A release names the Pythons for which it has wheels and the pins that fit it: a scikit-learn of 2023 wants
the NumPy of its time, not today's. The transitive pins and their hashes lie in `locks/`, made from this file by
`python -m clary.images.relock`; a release that does not resolve from wheels alone for a Python gets no lock there and
counts as not available.

What a container of AWS holds is taken from its Dockerfile (github.com/aws/sagemaker-scikit-learn-container and
github.com/aws/sagemaker-xgboost-container, folders docker/<tag>/base).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

# What clary_worker itself needs, in every environment.
SERVING = ("httptools==0.9.0", "orjson==3.13.0", "uvloop==0.23.0")

# Companions by age. "numpy1": before NumPy 2 (June 2024); "numpy2": its first year; "now": this year.
COMPANIONS: dict[tuple[str, str], tuple[str, ...]] = {
    ("numpy1", "3.11"): ("numpy==1.26.4", "scipy==1.11.4", "pandas==1.5.3", "joblib==1.3.2"),
    ("numpy1", "3.12"): ("numpy==1.26.4", "scipy==1.11.4", "pandas==2.1.4", "joblib==1.3.2"),
    ("numpy2", "3.11"): ("numpy==2.1.3", "scipy==1.14.1", "pandas==2.2.3", "joblib==1.4.2"),
    ("numpy2", "3.12"): ("numpy==2.1.3", "scipy==1.14.1", "pandas==2.2.3", "joblib==1.4.2"),
    ("numpy2", "3.13"): ("numpy==2.1.3", "scipy==1.14.1", "pandas==2.2.3", "joblib==1.4.2"),
    ("now", "3.11"): ("numpy==2.4.6", "scipy==1.17.1", "pandas==2.3.3", "joblib==1.6.0"),
    ("now", "3.12"): ("numpy==2.4.6", "scipy==1.17.1", "pandas==2.3.3", "joblib==1.6.0"),
    ("now", "3.13"): ("numpy==2.4.6", "scipy==1.17.1", "pandas==2.3.3", "joblib==1.6.0"),
}
# The scikit-learn beside another framework, for models that are wrapped in its estimators or pipelines.
SKLEARN_BESIDE = {"numpy1": "scikit-learn==1.3.2", "numpy2": "scikit-learn==1.5.2", "now": "scikit-learn==1.9.1"}


@dataclass(frozen=True, slots=True)
class Release:
    """One version of a framework; `pins` come on top of the companions of its age (of `beside`, where not all).

    `also` are companions of this framework alone. Where the framework stands on another, that one's release gives the
    age and its companions, and `base_from` is the oldest version of it that will do.
    """

    version: str
    age: str
    pythons: tuple[str, ...]
    pins: tuple[str, ...]
    beside: tuple[str, ...] = ("numpy", "scipy", "pandas", "joblib")
    also: tuple[str, ...] = ()
    base_from: str = "0"

    def companions(self, python: str) -> tuple[str, ...]:
        """What stands beside the framework on that Python."""
        chosen = (pin for pin in COMPANIONS[self.age, python] if pin.partition("==")[0] in self.beside)
        return (*chosen, *self.also, *SERVING)

    def requirements(self, python: str) -> tuple[str, ...]:
        """Direct pins for that Python."""
        return (*self.pins, *self.companions(python))


@dataclass(frozen=True, slots=True)
class Framework:
    """A framework: its short name, its releases oldest first, and whether locks of ours cover it.

    `locked_as` names the framework whose locks, or whose whole environment, it shares; "" for its own. `stands_on`: the
    framework below it, whose wheels decide where it can be had. `newest`: what is taken when no version is asked for,
    where that is not the last release.
    """

    name: str
    distribution: str
    releases: tuple[Release, ...]
    locked: bool = True
    locked_as: str = ""
    stands_on: str = ""
    newest: str = ""

    def release(self, version: str) -> Release | None:
        return next((one for one in self.releases if one.version == version), None)


def _sklearn(version: str, age: str, *pythons: str) -> Release:
    # skops reads models that are not pickles; it begins with scikit-learn 1.2.
    skops = () if version.startswith("1.1.") else ("skops==0.13.0",)
    return Release(version, age, pythons, (f"scikit-learn=={version}", *skops))


def _xgboost(version: str, age: str, *pythons: str, cpu: bool = True, extra: tuple[str, ...] = ()) -> Release:
    # The plain `xgboost` distribution brings CUDA libraries from 2.1 on; `xgboost-cpu` exists from there.
    name = "xgboost-cpu" if cpu else "xgboost"
    return Release(version, age, pythons, (f"{name}=={version}", SKLEARN_BESIDE[age], *extra))


def _lightgbm(version: str, age: str, *pythons: str) -> Release:
    return Release(version, age, pythons, (f"lightgbm=={version}", SKLEARN_BESIDE[age]))


def _onnx(version: str, age: str, *pythons: str) -> Release:
    return Release(version, age, pythons, (f"onnxruntime=={version}",), beside=("numpy",))


def _torch(version: str, age: str, *pythons: str) -> Release:
    return Release(version, age, pythons, (f"torch=={version}",))


def _transformers(version: str, *pythons: str, base_from: str = "2.2") -> Release:
    # Tokenizers of sentencepiece's kind, and pictures: AWS's containers have both.
    beside = ("sentencepiece==0.2.3", "protobuf==7.36.2", "pillow==13.0.0")
    return Release(version, "now", pythons, (f"transformers=={version}",), also=beside, base_from=base_from)


P11, P12, P13 = "3.11", "3.12", "3.13"

SKLEARN = Framework(
    "sklearn",
    "scikit-learn",
    (
        _sklearn("1.1.3", "numpy1", P11),
        _sklearn("1.2.1", "numpy1", P11),
        _sklearn("1.2.2", "numpy1", P11),
        _sklearn("1.3.2", "numpy1", P11, P12),
        _sklearn("1.4.2", "numpy2", P11, P12),
        _sklearn("1.5.2", "numpy2", P11, P12, P13),
        _sklearn("1.6.1", "numpy2", P11, P12, P13),
        _sklearn("1.7.2", "now", P11, P12, P13),
        _sklearn("1.8.0", "now", P11, P12, P13),
        _sklearn("1.9.1", "now", P11, P12, P13),
    ),
)
XGBOOST = Framework(
    "xgboost",
    "xgboost",
    (
        _xgboost("0.90", "numpy1", P11, cpu=False),
        _xgboost("1.0.0", "numpy1", P11, cpu=False),
        _xgboost("1.2.0", "numpy1", P11, cpu=False),
        _xgboost("1.3.3", "numpy1", P11, cpu=False),
        # 1.5 and 1.6 look for pkg_resources, which setuptools dropped in 82.
        _xgboost("1.5.2", "numpy1", P11, cpu=False, extra=("setuptools==80.9.0",)),
        _xgboost("1.6.2", "numpy1", P11, cpu=False, extra=("setuptools==80.9.0",)),
        _xgboost("1.7.4", "numpy1", P11, P12, cpu=False),
        _xgboost("1.7.6", "numpy1", P11, P12, cpu=False),
        _xgboost("2.0.3", "numpy1", P11, P12, cpu=False),
        _xgboost("2.1.4", "numpy2", P11, P12, P13),
        _xgboost("3.0.5", "numpy2", P11, P12, P13),
        _xgboost("3.1.3", "now", P11, P12, P13),
        _xgboost("3.2.0", "now", P11, P12, P13),
    ),
)
LIGHTGBM = Framework(
    "lightgbm",
    "lightgbm",
    (
        _lightgbm("3.3.5", "numpy1", P11, P12),
        _lightgbm("4.3.0", "numpy1", P11, P12),
        _lightgbm("4.5.0", "numpy2", P11, P12, P13),
        _lightgbm("4.6.0", "now", P11, P12, P13),
        _lightgbm("4.7.0", "now", P11, P12, P13),
    ),
)
ONNXRUNTIME = Framework(
    "onnxruntime",
    "onnxruntime",
    (
        _onnx("1.17.3", "numpy1", P11, P12),
        _onnx("1.19.2", "numpy2", P11, P12),
        _onnx("1.22.1", "numpy2", P11, P12, P13),
        _onnx("1.26.0", "now", P11, P12, P13),
        _onnx("1.31.1", "now", P11, P12, P13),
    ),
)
# Torch has no lock of ours: where its wheel comes from is the user's affair (find-links, an index of CPU builds).
PYTORCH = Framework(
    "pytorch",
    "torch",
    (
        _torch("2.2.2", "numpy1", P11, P12),
        _torch("2.3.1", "numpy2", P11, P12),
        _torch("2.4.1", "numpy2", P11, P12),
        _torch("2.5.1", "numpy2", P11, P12),
        _torch("2.6.0", "numpy2", P11, P12, P13),
        _torch("2.7.1", "now", P11, P12, P13),
        _torch("2.8.0", "now", P11, P12, P13),
        _torch("2.9.1", "now", P11, P12, P13),
        _torch("2.13.0", "now", P11, P12, P13),
    ),
    locked=False,
)
# Model repositories made for Triton, served by our own model server: ONNX, Python and ensembles need no more than
# ONNX Runtime's environment has; TorchScript needs torch beside it.
TRITON = Framework("triton", "onnxruntime", ONNXRUNTIME.releases, locked_as="onnxruntime")
ONNXRUNTIME_BESIDE = {"numpy1": "onnxruntime==1.17.3", "numpy2": "onnxruntime==1.22.1", "now": "onnxruntime==1.31.1"}
TRITON_PYTORCH = Framework(
    "triton-pytorch",
    "torch",
    tuple(replace(one, beside=("numpy",), also=(ONNXRUNTIME_BESIDE[one.age],)) for one in PYTORCH.releases),
    locked=False,
)
# Hugging Face's transformers, on whatever torch there is; tried with torch 2.13.0 on Python 3.11, but for 4.55.4, and
# for 4.46.3 since it has its pillow. Transformers 5 dropped question-answering, summarization, translation and
# text2text-generation: 4.57 serves unless asked.
HUGGINGFACE = Framework(
    "huggingface",
    "transformers",
    (
        _transformers("4.28.1", P11),
        _transformers("4.37.2", P11, P12, P13),
        _transformers("4.41.2", P11, P12),
        _transformers("4.46.3", P11, P12, P13),
        _transformers("4.49.0", P11, P12, P13),
        _transformers("4.51.3", P11, P12, P13),
        _transformers("4.53.3", P11, P12, P13),
        _transformers("4.55.4", P11, P12, P13),
        _transformers("4.56.2", P11, P12, P13),
        _transformers("4.57.6", P11, P12, P13),
        _transformers("5.23.0", P11, P12, P13, base_from="2.4"),
    ),
    locked=False,
    stands_on="pytorch",
    newest="4.57.6",
)
# The same environment, asked and answering as Text Generation Inference.
HUGGINGFACE_TGI = replace(HUGGINGFACE, name="huggingface-tgi", locked_as="huggingface")
FRAMEWORKS = {
    one.name: one
    for one in (
        *(SKLEARN, XGBOOST, LIGHTGBM, ONNXRUNTIME, PYTORCH, TRITON, TRITON_PYTORCH),
        *(HUGGINGFACE, HUGGINGFACE_TGI),
    )
}


@dataclass(frozen=True, slots=True)
class AwsRepository:
    """A repository of AWS's containers: `versions` tells what framework version a tag's first part means.

    `server` names a server that ours replaces: its tags are that server's versions and tell nothing of a framework's.
    `marked`: the word before the framework's version in a tag that begins with the version of what it stands on.
    """

    repository: str
    framework: str
    versions: dict[str, str] = field(default_factory=dict)
    server: str = ""
    marked: str = ""


AWS_REPOSITORIES = {
    one.repository: one
    for one in (
        AwsRepository(
            "sagemaker-scikit-learn",
            "sklearn",
            {"0.20.0": "0.20.0", "0.23-1": "0.23.2", "1.0-1": "1.0.2", "1.2-1": "1.2.1", "1.4-2": "1.4.2"},
        ),
        AwsRepository(
            "sagemaker-xgboost",
            "xgboost",
            {
                "0.90-1": "0.90",
                "0.90-2": "0.90",
                "1.0-1": "1.0.0",
                "1.2-1": "1.2.0",
                "1.2-2": "1.2.0",
                "1.3-1": "1.3.3",
                "1.5-1": "1.5.2",
                "1.7-1": "1.7.4",
                "3.0-5": "3.0.5",
            },
        ),
        AwsRepository("xgboost", "xgboost", {"latest": "0.72", "1": "0.72"}),
        AwsRepository("pytorch-inference", "pytorch"),
        AwsRepository("pytorch-inference-graviton", "pytorch"),
        AwsRepository("huggingface-pytorch-inference", "huggingface", marked="transformers"),
        AwsRepository("huggingface-pytorch-tgi-inference", "huggingface-tgi", server="TGI"),
        AwsRepository("sagemaker-tritonserver", "triton", server="Triton"),
    )
}
