"""What all servers that speak vLLM's API have in common, whoever asks them. Free of torch.

Source: vLLM, vllm/entrypoints/openai/completion/serving.py.
"""

import json
from typing import Any

LOWEST = -9999.0  # what vLLM writes for −inf, which JSON cannot hold
ROUNDING = 1e-3  # by which a log-probability may exceed 0
MESSAGE_CHARS = 300
# What of sampling's settings a server takes from the model's generation_config.json where it is not
# told; so, none changes anything.
NEUTRAL = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}


def parsed(content: bytes) -> Any:
    """The JSON of an answer; None: it has none."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def models_listed(answer: Any) -> list[dict[str, Any]]:
    """What GET /v1/models lists."""
    data = answer.get("data") if isinstance(answer, dict) else None
    return [m for m in data if isinstance(m, dict)] if isinstance(data, list) else []


def problem_told(content: bytes) -> str:
    """What the server says went wrong, from the forms that such servers use."""
    node = parsed(content)
    for name in ("error", "message", "detail"):
        if isinstance(node, dict) and name in node:
            node = node[name]
    return node if isinstance(node, str) else content.decode("utf-8", "replace")


def brief(text: str, key: str | None = None) -> str:
    """A server's words as errors quote them: one line without the key, cut after that is out."""
    if key:
        text = text.replace(key, "…")
    return " ".join(text.split())[:MESSAGE_CHARS]
