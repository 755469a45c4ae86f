"""Chat templates that write today's date, such as Llama 3's: they render as of a given moment."""

from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache, partial
from typing import Any

CLOCK = "strftime_now"  # what a template calls for the time, with a format
DIRECTIVES = "aAbBcCdDeFgGhHIjklmMnpPrRsStTuUVwWxXyYzZf"
FLAGS = ("", "-", "_", "0", "^", "#")
PERCENT = "\\0"  # stands for %% while the directives are replaced


def asks_for_time(tokenizer: Any) -> bool:
    """Whether any chat template of the tokenizer calls for the time."""
    return CLOCK in str(getattr(tokenizer, "chat_template", None))


def render_as_of(tokenizer: Any, moment: datetime) -> None:
    """Makes the tokenizer's chat templates find that moment wherever they ask for the time.

    Its template as it is stored and saved stays the same.
    """
    original = type(tokenizer).get_chat_template
    tokenizer.get_chat_template = partial(_dated, partial(original, tokenizer), moment)


def _dated(original: Any, moment: datetime, *arguments: Any, **options: Any) -> str:
    template: str = original(*arguments, **options)
    return _with_clock(template, moment) if CLOCK in template else template


@lru_cache(maxsize=8)  # asked for at every chat that is rendered
def _with_clock(template: str, moment: datetime) -> str:
    """The template behind a macro of the clock's name.

    transformers takes no functions from outside into a template, so the clock is written in Jinja:
    it replaces each directive of the format. The block ends with a line break, which Jinja drops,
    so that the template begins at the start of a line, as before.
    """
    pairs = ",".join(f"({_quoted(d)},{_quoted(text)})" for d, text in _directives(moment))
    return (
        f"{{%- macro {CLOCK}(format) -%}}"
        f"{{%- set out = namespace(text=format|replace('%%','{PERCENT}')) -%}}"
        f"{{%- for directive, text in [{pairs}] -%}}"
        "{%- set out.text = out.text|replace(directive, text) -%}"
        "{%- endfor -%}"
        f"{{{{ out.text|replace('{PERCENT}','%') }}}}"
        f"{{%- endmacro %}}\n{template}"
    )


def _directives(moment: datetime) -> Iterator[tuple[str, str]]:
    for letter in DIRECTIVES:
        for flag in FLAGS:
            directive = f"%{flag}{letter}"
            try:
                text = moment.strftime(directive)
            except ValueError:  # this system does not have it
                continue
            if text != directive:
                yield directive, text


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"
