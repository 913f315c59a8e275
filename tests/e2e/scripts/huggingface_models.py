"""Makes small Hugging Face models in a folder, and asks transformers' own pipelines what they answer.

Run by the Python of the environment that is to serve them: `python huggingface_models.py FOLDER`. The models have a few
thousand random weights (a fixed seed) and a vocabulary of some words: nothing is downloaded, nothing is trained.
FOLDER/expected.json then holds, by case: the model, its task, the inputs, the parameters and the pipeline's answer.
"""

import json
import os
import sys
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

FOLDER = Path(sys.argv[1])
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = "the a cat dog sat on mat is was good bad who where john lives in paris london . , ? this text is about pets"
VOCABULARY = {word: number for number, word in enumerate(dict.fromkeys(SPECIAL + WORDS.split()))}
SIZE = len(VOCABULARY)
BERT = {
    "vocab_size": SIZE,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 64,
    "initializer_range": 0.5,
}


def words(template):
    """A tokenizer of whole words; with the marks that BERT wants around and between texts, or without."""
    inner = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer() if template else pre_tokenizers.WhitespaceSplit()
    marks = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    if template:
        inner.normalizer = None
        inner.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
        marks |= {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    else:
        marks |= {"eos_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=64 if template else 100_000, **marks)


def save(name, model, tokenizer):
    model.eval().save_pretrained(FOLDER / name)
    tokenizer.save_pretrained(FOLDER / name)


def main():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    bert, plain = words(template=True), words(template=False)
    save("classifier", BertForSequenceClassification(BertConfig(**BERT, num_labels=2)), bert)
    labels = {0: "contradiction", 1: "neutral", 2: "entailment"}
    inference = BertConfig(**BERT, id2label=labels, label2id={word: number for number, word in labels.items()})
    save("inference", BertForSequenceClassification(inference), bert)
    save("names", BertForTokenClassification(BertConfig(**BERT, num_labels=3)), bert)
    save("answers", BertForQuestionAnswering(BertConfig(**BERT)), bert)
    save("masked", BertForMaskedLM(BertConfig(**BERT)), bert)
    ends = {"bos_token_id": 3, "eos_token_id": 3, "pad_token_id": 0}
    gpt2 = GPT2Config(vocab_size=SIZE, n_embd=16, n_layer=1, n_head=2, n_positions=64, initializer_range=0.5, **ends)
    save("teller", GPT2LMHeadModel(gpt2), plain)
    # Rotary positions: this one can go on for as long as it is let, since its end is never chosen.
    endless = LlamaConfig(
        vocab_size=SIZE,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=100_000,
        bos_token_id=3,
        eos_token_id=None,
        pad_token_id=0,
    )
    save("endless", LlamaForCausalLM(endless), plain)
    t5 = T5Config(vocab_size=SIZE, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
    t5.eos_token_id, t5.pad_token_id = 3, 0
    save("rewriter", T5ForConditionalGeneration(t5), plain)

    text = "the cat sat on the mat"
    few = {"max_new_tokens": 8, "do_sample": False}
    cases = {
        "text-classification": ("classifier", text, {}),
        "text-classification of many": ("classifier", [text, "a good dog"], {"top_k": 2}),
        "token-classification": ("names", "john lives in paris", {}),
        "question-answering": ("answers", {"question": "who lives in paris ?", "context": "john lives in paris ."}, {}),
        "feature-extraction": ("masked", text, {}),
        "fill-mask": ("masked", "the [MASK] sat on the mat", {"top_k": 3}),
        "zero-shot-classification": ("inference", text, {"candidate_labels": ["pets", "paris"]}),
        "text-generation": ("teller", text, few),
        "text2text-generation": ("rewriter", text, few),
        "summarization": ("rewriter", text, {"max_new_tokens": 8, "min_length": 2}),
    }
    told = {}
    for case, (name, inputs, parameters) in cases.items():
        task = case.partition(" ")[0]
        folder = str(FOLDER / name)
        answer = transformers.pipeline(task, model=folder, tokenizer=folder, device=-1)(inputs, **parameters)
        if task == "feature-extraction":
            answer = answer if isinstance(answer, list) else answer.tolist()
        told[case] = {"model": name, "task": task, "inputs": inputs, "parameters": parameters, "answer": answer}
    text_json = json.dumps(
        {"transformers": transformers.__version__, "torch": torch.__version__, "cases": told}, default=float, indent=1
    )
    (FOLDER / "expected.json").write_text(text_json)


main()
