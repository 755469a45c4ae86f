"""What a model folder is by its config.json: a causal language model or something else.

Free of torch. transformers would load many of the others as a causal model, too, with a head of
random weights.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opd.errors import ErrorKind, UserError

# By the end of the class's name, as transformers and its users name them.
OTHER_HEADS = (
    (r"ForSequenceClassification|ForTextClassification", "a classifier or reward model"),
    (r"(For|Model).*(Reward|Score|Ranking|Regression)|RewardModel$", "a reward model"),
    (r"ForTokenClassification", "a token classifier"),
    (r"ForQuestionAnswering", "an extractive question-answering model"),
    (r"ForMultipleChoice|ForNextSentencePrediction", "a classifier"),
    (r"ForMaskedLM|ForPreTrainedMaskedLM", "an encoder (masked language model)"),
    (r"For(Image|Audio|Video|Object|Depth|Semantic|Instance|Universal)\w*", "not a text model"),
    (r"ForCTC|ForSpeechSeq2Seq|ForTextToSpeech|ForTextToWaveform", "a speech model"),
    (r"EncoderModel|ForTextEncoding|DualEncoder", "an encoder"),
)
# Model types that transformers loads as a causal model although they read both ways, unless their
# config.json says is_decoder.
ENCODERS = (
    *("bert", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert"),
    *("rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta"),
    *("xlm-roberta-xl", "xmod"),
)
# Model types that transformers loads as a causal model although they do not write text by
# themselves, or not in a way that can be scored.
UNFIT = {
    **dict.fromkeys(
        ("gemma4_assistant", "gemma4_unified_assistant"),
        "a draft model that reads the keys and values of another Gemma 4 model",
    ),
    **dict.fromkeys(("musicgen", "musicgen_melody"), "a model that writes audio codes, not text"),
    **dict.fromkeys(
        ("prophetnet", "xlnet"), "a model whose logits at a token change with what follows it"
    ),
    **dict.fromkeys(
        (
            *("camembert", "cpmant", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm"),
            *("xlm-roberta", "xlm-roberta-xl", "xmod"),
        ),
        "a model that takes one id for padding wherever it stands, so that positions depend on "
        "what was written",
    ),
    "moshi": "a speech model, whose text is written beside audio codes",
    "reformer": "a model that computes gradients only with dropout on",
}
REMEDY = "give a causal language model (…ForCausalLM)"


def check_kind(folder: Path, config: Mapping[str, Any], *, where: str) -> None:
    """Refuses what is not a causal language model, by what it is."""
    kind = other_kind(config)
    if kind is not None:
        raise UserError(f"{folder} is {kind}; {REMEDY}", where=where, kind=ErrorKind.REFUSED_MODEL)


def other_kind(config: Mapping[str, Any]) -> str | None:
    """What a config.json describes, in words; None for what may be a causal language model."""
    architectures = config.get("architectures")
    names = [str(n) for n in architectures] if isinstance(architectures, list) else []
    named = f" ({names[0]})" if names else ""
    model_type = config.get("model_type")
    if any(n.endswith("ForCausalLM") for n in names) and model_type not in (*ENCODERS, *UNFIT):
        return None
    if config.get("is_encoder_decoder") is True:
        return f"an encoder–decoder model{named or _of_type(config)}"
    for pattern, kind in OTHER_HEADS:
        if any(re.search(pattern, n) for n in names):
            return f"{kind}{named}"
    if model_type in ENCODERS and config.get("is_decoder") is not True:
        return f"an encoder{named or _of_type(config)}"
    if model_type in UNFIT:
        return f"{UNFIT[str(model_type)]}{named or _of_type(config)}"
    if "_diffusers_version" in config:
        return f"a part of a diffusion pipeline ({config.get('_class_name', 'diffusers')})"
    return None


def _of_type(config: Mapping[str, Any]) -> str:
    return f" (model_type {config.get('model_type')})"
