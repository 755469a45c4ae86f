"""Which ids end a completion, and what a chat template writes around an assistant's message.

The chat template decides: a conversation is rendered, and what stands behind the assistant's text
is looked at. Models list their stop ids in any order, and their tokenizer's EOS may be another one.
"""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from opd.config.gguf.header import is_gguf, read_header
from opd.config.model_files.weights import read_object

CONTENT, NEXT_CONTENT = "opdreply", "opdquestion"  # texts that no template writes by itself


def as_ids(eos: Any) -> list[int]:
    """`eos_token_id` as configurations write it (a list, one id, or nothing) as a list."""
    return list(eos) if isinstance(eos, list) else [] if eos is None else [eos]


def declared_stops(model: Any) -> list[int]:
    """The ids that end an answer by the model's generation settings, else by its configuration."""
    declared = as_ids(model.generation_config.eos_token_id)
    return declared or as_ids(getattr(model.config.get_text_config(), "eos_token_id", None))


def stops_in_files(folder: Path) -> list[int]:
    """What `declared_stops` finds in the loaded model, from the folder's files, or from
    a GGUF file's header. Raises UserError."""
    if is_gguf(folder):
        return read_header(folder, where=str(folder)).stop_ids()
    for name in ("generation_config.json", "config.json"):
        if (folder / name).is_file():
            data = read_object(folder / name, where=str(folder))
            text = data.get("text_config")
            nested = text.get("eos_token_id") if isinstance(text, dict) else None
            declared = as_ids(data.get("eos_token_id")) or as_ids(nested)
            if declared:
                return declared
    return []


def stop_ids(
    declared: Sequence[int], tokenizer: Any, configured: Iterable[int] = ()
) -> tuple[int, ...]:
    """Every id that ends a completion; the first one ends an assistant's message.

    That is what the chat template writes, else one that the model declares, else the tokenizer's
    EOS, else the first `configured` one. The order of `declared` does not matter.
    """
    eos = as_ids(tokenizer.eos_token_id)
    written = template_end(tokenizer, declared)
    by_rank = [*as_ids(written), *(i for i in eos if i in declared), *sorted(declared), *eos]
    return tuple(dict.fromkeys([*by_rank, *configured]))


def template_end(tokenizer: Any, declared: Collection[int] = ()) -> int | None:
    """The first special id that the chat template writes behind an assistant's text.

    None without a template and where it writes none. A template may end only messages that another
    one follows; what then follows ends the message if the model declares it (GLM: `<|user|>`).
    """
    if not getattr(tokenizer, "chat_template", None):
        return None
    ends = {*declared, *as_ids(tokenizer.eos_token_id)}
    starts = {tokenizer.unk_token_id, tokenizer.bos_token_id} - ends
    special = {
        *(i for i, token in tokenizer.added_tokens_decoder.items() if token.content.strip()),
        *tokenizer.all_special_ids,
    }
    for messages, candidates in ((2, (special - starts) | ends), (3, ends)):
        whole = _rendered(tokenizer, messages) or ""
        tail = whole.rpartition(CONTENT)[2].partition(NEXT_CONTENT)[0].strip()
        ids = tokenizer(tail, add_special_tokens=False)["input_ids"] if tail else []
        end = next((i for i in ids if i in candidates), None)
        if end is not None:
            return int(end)
    return None


def reply_lead(tokenizer: Any) -> str:
    """What the template writes between its generation prompt and an assistant's text: a blank
    (Mistral), an empty thought (Qwen3), the final channel (harmony); "" without a template.
    """
    if not getattr(tokenizer, "chat_template", None):
        return ""
    prompt, reply = (_rendered(tokenizer, count) for count in (1, 2))
    before, content, _ = (reply or "").rpartition(CONTENT)
    return before[len(prompt) :] if prompt and content and before.startswith(prompt) else ""


def led(tokenizer: Any, prompt: str, reply: str, lead: str) -> str:
    """A reply with the template's `lead`, where neither the prompt nor the reply has it already."""
    written = lead.strip()
    if not written:
        return lead + reply
    ids = [set(tokenizer(t, add_special_tokens=False)["input_ids"]) for t in (lead, reply)]
    marks = ids[0] & ids[1] & tokenizer.added_tokens_decoder.keys()
    there = prompt.endswith(lead) or reply.lstrip().startswith(written) or marks
    return reply if there else lead + reply


def _rendered(tokenizer: Any, messages: int) -> str | None:
    """So many messages of user, assistant and user, with the generation prompt where a user's is
    the only one; None where the template refuses them. Some templates take only lists of parts.
    """
    from jinja2 import TemplateError  # noqa: PLC0415 - only for chats

    texts = [("user", "question"), ("assistant", CONTENT), ("user", NEXT_CONTENT)][:messages]
    for parts in (False, True):
        chat = [
            {"role": role, "content": [{"type": "text", "text": text}] if parts else text}
            for role, text in texts
        ]
        try:
            whole = tokenizer.apply_chat_template(
                chat, tokenize=False, add_generation_prompt=messages == 1
            )
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError):
            continue
        if texts[-1][1] in whole:
            return str(whole)
    return None
