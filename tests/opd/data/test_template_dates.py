"""Templates that ask for the time get the moment they are given, and only that changes."""

from datetime import datetime

import pytest
from transformers import PreTrainedTokenizerFast

from opd.data.template_dates import asks_for_time, render_as_of
from tests.support import tiny_models

MOMENT = datetime(2024, 2, 3, 4, 5, 6)
CHAT = [{"role": "user", "content": "hi"}]
# As Llama 3.2 and gpt-oss write it
LLAMA = """{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
Today Date: {{ date_string }}
{{ messages[0].content }}"""
GPT_OSS = """{%- macro system() %}
    {{- "Current date: " + strftime_now("%Y-%m-%d") + "\\n\\n" }}
{%- endmacro %}
{{- system() }}{{ messages[0].content }}"""


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_models.tokenizer()


def render(tokenizer: PreTrainedTokenizerFast, template: str, **options: str) -> str:
    tokenizer.chat_template = template
    return str(tokenizer.apply_chat_template(CHAT, tokenize=False, **options))


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (LLAMA, "Today Date: 03 Feb 2024\nhi"),
        (GPT_OSS, "Current date: 2024-02-03\n\nhi"),
        ("{{ strftime_now('%H:%M:%S %-d %%d 100%%') }}", "04:05:06 3 %d 100%"),
        ("{% set f = '%A' %}{{ strftime_now(f) }}|{{ strftime_now('%j')|int + 1 }}", "Saturday|35"),
    ],
)
def test_a_template_finds_the_given_moment(
    tokenizer: PreTrainedTokenizerFast, template: str, text: str
) -> None:
    render_as_of(tokenizer, datetime(1999, 1, 1))
    render_as_of(tokenizer, MOMENT)  # the last one counts
    assert render(tokenizer, template) == text
    assert asks_for_time(tokenizer)


def test_a_date_from_the_caller_goes_first(tokenizer: PreTrainedTokenizerFast) -> None:
    render_as_of(tokenizer, MOMENT)
    assert "Today Date: 1 May 2000" in render(tokenizer, LLAMA, date_string="1 May 2000")


@pytest.mark.parametrize(
    "start", ["\n", "\n\n", "  ", "  {% if true %}a{% endif %}", "\n {# x #}b"]
)
def test_all_else_is_rendered_as_before(tokenizer: PreTrainedTokenizerFast, start: str) -> None:
    template = start + "{% if messages %}x{% endif %}\n  {%- set t = strftime_now('') %} y\n"
    before = render(tokenizer, template)
    render_as_of(tokenizer, MOMENT)
    assert render(tokenizer, template) == before


def test_the_template_is_saved_as_it_was(tokenizer: PreTrainedTokenizerFast, tmp_path) -> None:
    tokenizer.chat_template = {"default": GPT_OSS, "tool_use": LLAMA}
    render_as_of(tokenizer, MOMENT)
    assert "03 Feb 2024" in tokenizer.apply_chat_template(CHAT, tokenize=False, tools=[{}])
    tokenizer.save_pretrained(tmp_path)
    saved = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert saved.chat_template == {"default": GPT_OSS, "tool_use": LLAMA}
