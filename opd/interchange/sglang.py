"""Answers of SGLang's /generate with `return_logprob` as vLLM's answers.

`input_token_logprobs` has [log-probability, id, text] for each token of the input, the first one's
log-probability null; `input_top_logprobs` has for each the list of the likeliest, null for the
first. Ranks are not given: the likeliest ones' follow from their order.
"""

from collections.abc import Iterator
from typing import Any, NoReturn

from opd.errors import ErrorKind, UserError
from opd.interchange.optional_fields import shown

Row = dict[str, Any]


def as_answers(lines: Iterator[tuple[int, Row]], path: str) -> Iterator[tuple[int, Row]]:
    """The lines, those of SGLang in the form of vLLM's. Raises UserError."""
    for number, data in lines:
        where = f"{path}, line {number}"
        line = _as_vllm(data, where, "") if "meta_info" in data else data
        teacher = line.get("teacher")
        if isinstance(teacher, dict) and "meta_info" in teacher:
            line = line | {"teacher": _as_vllm(teacher, where, "teacher.")}
        yield number, line


def _as_vllm(data: Row, where: str, name: str) -> Row:
    def fail(field: str, text: str) -> NoReturn:
        raise UserError(text, where=f"{where}, {name}meta_info{field}", kind=ErrorKind.BAD_DATA)

    meta = data["meta_info"]
    tokens = meta.get("input_token_logprobs") if isinstance(meta, dict) else None
    if not isinstance(tokens, list) or not tokens:
        fail(".input_token_logprobs", "is missing: ask with return_logprob and logprob_start_len 0")
    for i, token in enumerate(tokens):
        if not _is_entry(token):
            fail(f".input_token_logprobs[{i}]", f"must be [logprob, id, text] (got {shown(token)})")
    count = meta.get("prompt_tokens", len(tokens))
    if count != len(tokens):
        fail(
            ".input_token_logprobs",
            f"has {len(tokens)} of {shown(count)} tokens: ask with logprob_start_len 0",
        )
    tops = meta.get("input_top_logprobs") or [None] * len(tokens)
    if not isinstance(tops, list) or len(tops) != len(tokens):
        fail(".input_top_logprobs", f"must have one entry for each of {len(tokens)} tokens")
    entries: list[Row | None] = [None]
    for i, ((logprob, token, text), top) in enumerate(zip(tokens[1:], tops[1:], strict=True), 1):
        entry = {str(token): {"logprob": logprob, "rank": None, "decoded_token": text}}
        for rank, item in enumerate(top or (), 1):
            if not _is_entry(item):
                fail(
                    f".input_top_logprobs[{i}]",
                    f"must hold [logprob, id, text] (got {shown(item)})",
                )
            entry[str(item[1])] = {"logprob": item[0], "rank": rank, "decoded_token": item[2]}
        entries.append(entry)
    kept = {key: value for key, value in data.items() if key not in ("meta_info", "text")}
    ids = [token for _, token, _ in tokens]
    return kept | {"prompt_token_ids": ids, "prompt_logprobs": entries}


def _is_entry(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and type(value[1]) is int and value[1] >= 0
