"""A model folder to a transformers pipeline, on the CPU and from local files alone."""

from __future__ import annotations

import os
from typing import Any, Dict, Tuple

from ..contract import LoadError
from . import tasks

# Read at import by huggingface_hub and tokenizers. There is no hub to ask, so nothing shall wait for one; threads of
# the tokenizers would be lost in a fork, and are more than a worker's share.
AT_IMPORT = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
# Modules that a first request would otherwise import, for the zygote: the lazy parts of transformers that models of its
# commonest kinds need.
MODULES = (
    "torch",
    "transformers",
    "transformers.pipelines",
    "transformers.modeling_utils",
    "transformers.generation.utils",
    "transformers.tokenization_utils_fast",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.bert.modeling_bert",
    "transformers.models.bert.tokenization_bert_fast",
    "transformers.models.distilbert.modeling_distilbert",
    "transformers.models.roberta.modeling_roberta",
    "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.llama.modeling_llama",
    "transformers.models.t5.modeling_t5",
)
WITHOUT_EFFECT = ("HF_API_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def before_import() -> None:
    """Sets what the libraries read when they are imported, where the user has not."""
    for name, value in AT_IMPORT.items():
        os.environ.setdefault(name, value)


def load(model_dir: str, environ: Dict[str, str], threads: int) -> Tuple[Any, str]:
    """(pipeline, note). Raises: LoadError with reason and hint."""
    folder = place(model_dir, environ)
    config = tasks.read_config(folder)
    task = tasks.choose(environ, config)
    return open_pipeline(task, folder, tasks.is_true(environ.get("HF_TRUST_REMOTE_CODE", "")), threads), note(environ)


def place(model_dir: str, environ: Dict[str, str]) -> str:
    """The folder of the weights: HF_MODEL_ID may name one below the model's. Raises: LoadError when it is not there."""
    named = environ.get("HF_MODEL_ID", "")
    if not named.startswith("/"):
        return model_dir
    inside = os.path.relpath(named, "/opt/ml/model")
    folder = os.path.normpath(os.path.join(model_dir, inside))
    if inside.startswith("..") or not os.path.isdir(folder):
        raise LoadError(
            "HF_MODEL_ID names %s, which is no folder of the model" % named,
            "name /opt/ml/model or a folder below it, or leave HF_MODEL_ID out",
        )
    return folder


def note(environ: Dict[str, str]) -> str:
    """What of the Environment is recorded without effect."""
    told = ["%s has no effect: no hub is asked" % name for name in WITHOUT_EFFECT if environ.get(name)]
    return "; ".join(told)


def open_pipeline(task: str, folder: str, trusted: bool, threads: int) -> Any:
    """transformers' own pipeline. Raises: LoadError."""
    before_import()
    try:
        import torch
        import transformers
    except ModuleNotFoundError as error:
        raise LoadError(
            "a Hugging Face model needs transformers and torch, which this environment lacks (%s)" % error,
            "choose the image clary/huggingface",
        ) from error
    torch.set_num_threads(threads)
    options: Dict[str, Any] = {"feature_extractor" if task in tasks.SENSES else "tokenizer": folder}
    try:
        return transformers.pipeline(task=task, model=folder, device=-1, trust_remote_code=trusted, **options)
    except KeyError as error:
        # Its words for a task that it does not have: "Unknown task x, available tasks are [...]".
        raise LoadError(
            "transformers %s has no pipeline for HF_TASK=%s: %s" % (transformers.__version__, task, error.args[0]),
            "correct HF_TASK; question-answering, summarization, translation and text2text-generation went with "
            "transformers 5: for them choose an image of transformers 4",
        ) from error
    except (OSError, ValueError, ImportError) as error:
        hint = "pack what save_pretrained() of model and tokenizer wrote; see the endpoint's log for the whole error"
        if "trust_remote_code" in str(error):
            hint = "the model brings code of its own: if you trust it, set HF_TRUST_REMOTE_CODE=true"
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise LoadError(
            "transformers %s cannot load the model for %s: %s" % (transformers.__version__, task, first), hint
        ) from error
