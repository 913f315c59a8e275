"""Which task a model is for, when HF_TASK does not say, told from the architecture in its config.json.

The endings are those that sagemaker-huggingface-inference-toolkit knows (2.6.0); the longest that fits decides, so that
a TAPAS model, which also ends like any question answerer, is asked about tables.
"""

from __future__ import annotations

import json
import os
from typing import Any, Dict

from ..contract import LoadError

TABLE_QA = "table-question-answering"
ZERO_SHOT = "zero-shot-classification"
GENERATING = ("text-generation", "text2text-generation", "summarization", "translation")
# The architecture's ending -> task.
ENDINGS: Dict[str, str] = {
    "TapasForQuestionAnswering": TABLE_QA,
    "ForQuestionAnswering": "question-answering",
    "ForTokenClassification": "token-classification",
    "ForSequenceClassification": "text-classification",
    "ForMultipleChoice": "multiple-choice",
    "ForMaskedLM": "fill-mask",
    "ForCausalLM": "text-generation",
    "GPT2LMHeadModel": "text-generation",
    "ForConditionalGeneration": "text2text-generation",
    "MTModel": "text2text-generation",
    "EncoderDecoderModel": "text2text-generation",
    "T5WithLMHeadModel": "text2text-generation",
}
# Tasks whose pipelines read pictures or sound, not texts.
SENSES = frozenset(
    (
        "automatic-speech-recognition",
        "audio-classification",
        "image-classification",
        "image-segmentation",
        "object-detection",
        "zero-shot-image-classification",
    )
)


def of_architecture(architecture: str) -> str:
    """The task of a model class's name, "" when it tells none."""
    fitting = [ending for ending in ENDINGS if architecture.endswith(ending)]
    return ENDINGS[max(fitting, key=len)] if fitting else ""


def read_config(model_dir: str) -> Dict[str, Any]:
    """The model's config.json. Raises: LoadError when there is none or it is no JSON object."""
    path = os.path.join(model_dir, "config.json")
    try:
        with open(path, "rb") as file:
            found = json.load(file)
    except FileNotFoundError:
        names = sorted(os.listdir(model_dir)) if os.path.isdir(model_dir) else []
        raise LoadError(
            "no config.json lies at the top of the model; there is %s" % (", ".join(names[:20]) or "no file"),
            "pack what save_pretrained() of model and tokenizer wrote at the archive's top, "
            "or add code/inference.py with model_fn",
        ) from None
    except ValueError as error:
        raise LoadError("config.json cannot be read: %s" % error, "save the model again") from error
    if not isinstance(found, dict):
        raise LoadError("config.json holds no JSON object", "save the model again")
    return found


def choose(environ: Dict[str, str], config: Dict[str, Any]) -> str:
    """HF_TASK, else the task of the first architecture. Raises: LoadError naming what would tell it."""
    named = environ.get("HF_TASK", "")
    if named:
        return named
    architectures = config.get("architectures") or [""]
    task = of_architecture(str(architectures[0]))
    if not task:
        raise LoadError(
            "the task cannot be told from config.json (architectures: %s)" % (architectures[0] or "none named"),
            "set HF_TASK in the model's Environment, as HF_TASK=feature-extraction",
        )
    return task


def is_true(text: str) -> bool:
    """A switch as the toolkit reads it; what is no word for yes counts as no."""
    return text.strip().lower() in ("1", "y", "yes", "t", "true", "on")
