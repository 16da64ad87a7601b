# ruff: noqa: RUF001 - DeepSeek's tokens have wide bars.
"""Small chat templates in the manner of models that reason and call tools, and tokenizers for them."""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import AddedToken

from sampan.models.tokenizer import Tokenizer
from tests.models.model_files import hub_tokenizer

PLAIN = """\
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

_CHATML_TOOLS = """\
{%- if tools %}{{ '<|im_start|>system\\n# Tools\\n<tools>\\n' }}
{%- for tool in tools %}{{ tool | tojson + '\\n' }}{% endfor %}
{{- '</tools>\\nFORMAT<|im_end|>\\n' }}{% endif %}
{%- for m in messages %}
{%- if m.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + m.content + '\\n</tool_response><|im_end|>\\n' }}
{%- elif m.role == 'assistant' %}
{%- set content = m.content.split('</think>')[-1].lstrip('\\n') if '</think>' in m.content else m.content %}
{{- '<|im_start|>assistant\\n' + content }}
{%- for call in m.tool_calls %}CALL{% endfor %}{{ '<|im_end|>\\n' }}
{%- else %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}"""

HERMES = _CHATML_TOOLS.replace(
    "FORMAT", '<tool_call>\\n{"name": <name>, "arguments": <object>}\\n</tool_call>'
).replace(
    "CALL",
    """{{ '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
    {{- call.function.arguments | tojson + '}\\n</tool_call>' }}""",
)

QWEN_CODER = _CHATML_TOOLS.replace(
    "FORMAT",
    "<tool_call>\\n<function=name>\\n<parameter=key>\\nvalue\\n</parameter>\\n</function>\\n</tool_call>",
).replace(
    "CALL",
    """{{ '<tool_call>\\n<function=' + call.function.name + '>\\n' }}
    {%- for key, value in call.function.arguments | items %}
    {{- '<parameter=' + key + '>\\n' + value | string + '\\n</parameter>\\n' }}{% endfor %}
    {{- '</function>\\n</tool_call>' }}""",
)

DEEPSEEK = """\
{{- bos_token }}
{%- for m in messages if m.role == 'system' %}{{ m.content }}{% endfor %}
{%- if tools %}{{ '\\n\\n## Tools\\n' }}
{%- for tool in tools %}{{ tool | tojson + '\\n' }}{% endfor %}{% endif %}
{%- for m in messages %}
{%- if m.role == 'user' %}{{ '<｜User｜>' + m.content }}{% endif %}
{%- if m.role == 'assistant' %}
{{- '<｜Assistant｜>' + (m.content.split('</think>')[-1] if '</think>' in m.content else m.content) }}
{%- if m.tool_calls %}{{ '<｜tool▁calls▁begin｜>' }}
{%- for call in m.tool_calls %}
{{- '<｜tool▁call▁begin｜>' + CALL + '<｜tool▁call▁end｜>' }}{% endfor %}
{{- '<｜tool▁calls▁end｜>' }}{% endif %}{{ '<｜end▁of▁sentence｜>' }}{% endif %}
{%- if m.role == 'tool' %}{{ '<｜tool▁output▁begin｜>' + m.content + '<｜tool▁output▁end｜>' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<｜Assistant｜>OPENING' }}{% endif %}"""

DEEPSEEK_R1 = DEEPSEEK.replace(
    "CALL",
    "call.type + '<｜tool▁sep｜>' + call.function.name + '\\n```json\\n' + call.function.arguments"
    " + '\\n```'",
).replace("OPENING", "<think>\\n")
DEEPSEEK_V31 = DEEPSEEK.replace(
    "CALL", "call.function.name + '<｜tool▁sep｜>' + call.function.arguments"
).replace("OPENING", "</think>")

KIMI = """\
{%- if tools %}{{ '<|im_system|>tool_declare<|im_middle|>' + tools | tojson + '<|im_end|>' }}{% endif %}
{%- for m in messages %}
{%- if m.role == 'tool' %}
{{- '<|im_system|>tool<|im_middle|>## Return of ' + m.tool_call_id + '\\n' + m.content }}
{%- else %}{{ '<|im_' + m.role + '|>' + m.role + '<|im_middle|>' }}
{{- m.content.split('</think>')[-1] if m.role == 'assistant' else m.content }}{% endif %}
{%- if m.tool_calls %}{{ '<|tool_calls_section_begin|>' }}
{%- for call in m.tool_calls %}
{{- '<|tool_call_begin|>' + call.id + '<|tool_call_argument_begin|>' + call.function.arguments | tojson }}
{{- '<|tool_call_end|>' }}{% endfor %}{{ '<|tool_calls_section_end|>' }}{% endif %}{{ '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_assistant|>assistant<|im_middle|>' }}{% endif %}"""

GLM = """\
[gMASK]<sop>
{%- if tools %}{{ '<|system|>\\n# Tools\\n' }}{% for tool in tools %}{{ tool | tojson + '\\n' }}{% endfor %}
{{- '<tool_call>{name}\\n<arg_key>{key}</arg_key>\\n<arg_value>{value}</arg_value>\\n</tool_call>' }}
{%- endif %}
{%- for m in messages %}
{%- if m.role == 'tool' %}{{ '<|observation|>\\n<tool_response>\\n' + m.content + '\\n</tool_response>' }}
{%- else %}
{%- set content = m.content.split('</think>')[-1].strip() if m.role == 'assistant' else m.content %}
{{- '<|' + m.role + '|>\\n' + ('<think></think>\\n' if m.role == 'assistant' else '') + content }}{% endif %}
{%- for call in m.tool_calls %}{{ '\\n<tool_call>' + call.function.name + '\\n' }}
{%- for key, value in call.function.arguments.items() %}
{{- '<arg_key>' + key + '</arg_key>\\n<arg_value>' }}
{{- (value if value is string else value | tojson) + '</arg_value>\\n' }}{% endfor %}{{ '</tool_call>' }}
{%- endfor %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}
{%- if enable_thinking is defined and not enable_thinking %}{{ '\\n<think></think>' }}{% endif %}
{%- endif %}"""

MINIMAX = """\
{%- if tools %}{{ ']~b]system\\n<tools>\\n' }}{% for tool in tools %}{{ tool | tojson + '\\n' }}{% endfor %}
{{- '</tools>\\n<minimax:tool_call>\\n<invoke name="name">\\n<parameter name="key">value</parameter>\\n' }}
{{- '</invoke>\\n</minimax:tool_call>[e~[\\n' }}{% endif %}
{%- for m in messages %}
{{- ']~b]' + ('ai' if m.role == 'assistant' else m.role) + '\\n' + m.content.split('</think>')[-1] }}
{%- if m.tool_calls %}{{ '\\n<minimax:tool_call>\\n' }}{% for call in m.tool_calls %}
{{- '<invoke name="' + call.function.name + '">\\n' }}
{%- for key, value in call.function.arguments.items() %}
{{- '<parameter name="' + key + '">' + (value if value is string else value | tojson) + '</parameter>\\n' }}
{%- endfor %}{{ '</invoke>\\n' }}{% endfor %}{{ '</minimax:tool_call>' }}{% endif %}{{ '[e~[\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ ']~b]ai\\n<think>\\n' }}{% endif %}"""

LLAMA = """\
{{- bos_token }}
{%- if tools %}{{ '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
{{- 'Respond in the format {"name": function name, "parameters": dictionary of argument names}.' }}
{%- for tool in tools %}{{ tool | tojson }}{% endfor %}{{ '<|eot_id|>' }}{% endif %}
{%- for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' }}
{%- if m.tool_calls %}{% set call = m.tool_calls[0].function %}
{{- '{"name": "' + call.name + '", "parameters": ' + call.arguments | tojson + '}' }}
{%- else %}{{ m.content | trim }}{% endif %}{{ '<|eot_id|>' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""


@dataclass(frozen=True)
class Style:
    """A template, with the control tokens it writes and the tokens that are matched in any text."""

    template: str
    control: tuple[str, ...] = ()
    added: tuple[str, ...] = ()

    def tokenizer(self) -> Tokenizer:
        """The small tokenizer of the golden data with these tokens; the last control token ends answers."""
        tokenizer = hub_tokenizer()
        tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in self.control])
        tokenizer.add_tokens([AddedToken(text, normalized=False) for text in self.added])
        ends = ["<|im_end|>", *self.control[-1:]]
        config = {
            "chat_template": self.template,
            "bos_token": self.control[0] if self.control else "<|endoftext|>",
            "eos_ids": sorted({tokenizer.token_to_id(text) for text in ends}),
        }
        # As models have it: more logits than tokens.
        return Tokenizer(tokenizer.to_str().encode(), config, tokenizer.get_vocab_size() + 13)


_THINK = ("<think>", "</think>")
_DEEPSEEK_CONTROL = (
    "<｜begin▁of▁sentence｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁output▁begin｜>",
    "<｜tool▁output▁end｜>",
    "<｜end▁of▁sentence｜>",
)
STYLES = {
    "plain": Style(PLAIN),
    "hermes": Style(HERMES, (), (*_THINK, "<tool_call>", "</tool_call>")),
    "qwen_coder": Style(QWEN_CODER, (), (*_THINK, "<tool_call>", "</tool_call>")),
    "deepseek_r1": Style(DEEPSEEK_R1, _DEEPSEEK_CONTROL, _THINK),
    "deepseek_v31": Style(DEEPSEEK_V31, _DEEPSEEK_CONTROL, _THINK),
    # Marks of reasoning as control tokens.
    "kimi": Style(
        KIMI,
        (
            *_THINK,
            *(f"<|im_{part}|>" for part in ("system", "user", "assistant", "middle")),
            "<|tool_calls_section_begin|>",
            "<|tool_calls_section_end|>",
            "<|tool_call_begin|>",
            "<|tool_call_argument_begin|>",
            "<|tool_call_end|>",
            "[EOS]",
        ),
    ),
    "glm": Style(
        GLM,
        ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
        (*_THINK, "<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    ),
    "minimax": Style(
        MINIMAX, ("]~!b[", "]~b]", "[e~["), (*_THINK, "<minimax:tool_call>", "</minimax:tool_call>")
    ),
    "llama": Style(
        LLAMA, ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>")
    ),
}

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "unit": {"enum": ["celsius", "fahrenheit"]},
                "places": {"type": "array", "items": {"type": "number"}},
                "exact": {"type": "boolean"},
            },
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
TIME = {
    "type": "function",
    "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}},
}
