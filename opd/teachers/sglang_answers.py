"""What SGLang's own /generate answers with `return_logprob`, as a teacher's opinions.

For each token of the input `input_token_logprobs` has [log-probability, id, text], and
`input_top_logprobs` the list of the likeliest; the first token has null in both. Ranks are not
given. Written by its documents and source: nobody has run it here. Free of torch.

Source: SGLang 0.5, python/sglang/srt/managers/io_struct.py (GenerateReqInput) and
tokenizer_manager.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from opd.teachers.vllm_answers import AnswerReader


class SglangReader(AnswerReader):
    path = "/generate"
    models_path = "/v1/models"
    ranked = False

    def body(
        self, model: str, sequences: Sequence[Sequence[int]], *, texts: bool = False
    ) -> dict[str, Any]:
        """`model` is the only one that such a server has."""
        return {
            "input_ids": sequences,
            "sampling_params": {"max_new_tokens": 1, "temperature": 1.0},
            "return_logprob": True,
            "logprob_start_len": 0,
            "top_logprobs_num": self.k,
            "return_text_in_logprobs": texts,
            "stream": False,
        }

    def choices(self, answer: Any, count: int) -> list[Mapping[str, Any]]:
        """The answers in the order of the request's sequences, as vLLM would give them."""
        answers = [answer] if isinstance(answer, dict) else answer
        if not isinstance(answers, list) or not all(isinstance(a, dict) for a in answers):
            raise self._error("did not answer with a list of texts; is it an SGLang server?")
        if len(answers) != count:
            raise self._error(f"answered with {len(answers)} texts for {count} sequences")
        return [{"prompt_logprobs": self._positions(a.get("meta_info"))} for a in answers]

    def _positions(self, meta: Any) -> list[Any]:
        tokens = meta.get("input_token_logprobs") if isinstance(meta, dict) else None
        if not isinstance(tokens, list):
            raise self._error("gave no meta_info.input_token_logprobs; is it an SGLang server?")
        tops = meta.get("input_top_logprobs") or [None] * len(tokens)
        if not isinstance(tops, list) or len(tops) != len(tokens):
            raise self._error(f"gave the likeliest of {len(tops)} tokens, and scored {len(tokens)}")
        return [None, *map(self._position, tokens[1:], tops[1:])] if tokens else []

    def _position(self, token: Any, top: Any) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        for rank, item in enumerate([token, *(top or [])]):
            if not isinstance(item, list) or len(item) < 2 or type(item[1]) is not int:
                raise self._error("gave an entry that is not [logprob, id, text]")
            text = item[2] if len(item) > 2 else None
            entry = {"logprob": item[0], "decoded_token": text}
            entries[str(item[1])] = entry | {"rank": rank or None}
        return entries
