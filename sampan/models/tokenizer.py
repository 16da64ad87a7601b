"""Text to tokens and back, as the model's own tokenizer and chat template say."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypedDict, Unpack

from sampan.errors import FormatError, RequestError
from sampan.models.chat_template import ChatTemplate
from sampan.models.control_text import (
    ControlTexts,
    encode_guarded,
    guarded_messages,
    guarded_value,
    strings_in,
    unused_characters,
)
from sampan.models.messages import template_messages
from sampan.models.template_tools import TemplateTools
from sampan.models.token_bytes import vocabulary_bytes
from sampan.models.tokenizer_import import parse_tokenizer
from sampan.models.tool_prompt import call_as_text, with_calls_as_text, with_tools_described
from sampan.models.tools import check_tools


@dataclass(frozen=True)
class ChatPrompt:
    """A conversation as the model reads it: the chat template's text, and its tokens."""

    text: str
    tokens: list[int]


class ChatOptions(TypedDict, total=False):
    """How a conversation becomes a prompt.

    `tools`: objects such as `{"type": "function", "function": {"name": ..., "parameters": schema}}`; a
    template without a place for them gets them as text, see `sampan.models.tool_prompt`.
    `add_generation_prompt`, True unless given: the prompt ends where the assistant's answer begins.
    `continue_final`: instead, where the content of the last message ends. `options`: further variables of the
    template, such as `enable_thinking`.
    """

    tools: Sequence[Mapping[str, Any]]
    add_generation_prompt: bool
    continue_final: bool
    options: Mapping[str, Any] | None


class Tokenizer:
    """A model's tokenizer, made from what `import_tokenizer` returned and the pack keeps.

    Safe to use from several threads. Control tokens written in plain text are encoded as text; in a chat, so
    are those in messages and tools, and only those count that the template writes.

    `control_tokens`: ids of the control tokens by their texts; `added_tokens`: of all tokens that are matched
    before others, such as `<think>`; `template_source`: the chat template, where the file has one.
    """

    def __init__(
        self, tokenizer_json: bytes, config: Mapping[str, Any], vocab_size: int | None = None
    ) -> None:
        """`vocab_size`: the model's; encoding refuses tokens beyond it, as files for images may have."""
        self._tokenizer = parse_tokenizer(tokenizer_json, "tokenizer.json")
        self._lock = threading.Lock()
        self._vocab_size = vocab_size if vocab_size is not None else self._tokenizer.get_vocab_size()
        self._add_bos = _checked(config, "add_bos", bool, False)
        self.bos_id: int | None = _checked(config, "bos_id", int, None)
        self.eos_ids = frozenset(_checked(config, "eos_ids", list, []))
        if not all(type(token) is int for token in self.eos_ids) or (self._add_bos and self.bos_id is None):
            raise FormatError("tokenizer_config.json: eos_ids or bos_id are damaged")
        template = _checked(config, "chat_template", str, None)
        special = {
            key: config[key] for key in config if key.endswith("_token") and isinstance(config[key], str)
        }
        self._special_tokens = special
        self.template_source = template
        self._template: tuple[ChatTemplate, TemplateTools] | None = None
        added = self._tokenizer.get_added_tokens_decoder()
        self.control_tokens = {entry.content: token for token, entry in added.items() if entry.special}
        self.added_tokens = {entry.content: token for token, entry in added.items()}
        self.control_texts = ControlTexts(self.control_tokens)

    @staticmethod
    def from_blobs(
        tokenizer_json: bytes, tokenizer_config: bytes, vocab_size: int | None = None
    ) -> Tokenizer:
        """From the pack's two blobs."""
        try:
            config = json.loads(tokenizer_config)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"tokenizer_config.json is damaged: {error}") from error
        if not isinstance(config, dict):
            raise FormatError("tokenizer_config.json is damaged: not an object")
        return Tokenizer(tokenizer_json, config, vocab_size)

    @property
    def has_chat_template(self) -> bool:
        """Whether `chat` can work."""
        return self.template_source is not None

    @property
    def template_options(self) -> frozenset[str]:
        """The variables of the chat template that a request may set; none without a template."""
        return frozenset() if self.template_source is None else self._chat_template()[0].options

    @property
    def template_knows_tools(self) -> bool:
        """Whether the chat template has a place for tools or for calls."""
        if not self.has_chat_template:
            return False
        tools = self._chat_template()[1]
        return tools.described or tools.call_example is not None

    def encode(self, text: str, *, add_bos: bool | None = None, parse_special: bool = False) -> list[int]:
        """Token ids of `text`. `add_bos`: None does as the file says.

        `parse_special` makes control tokens out of their texts; leave it off for text that a user wrote.
        RequestError when the text is not valid Unicode or needs a token the model has not.
        """

        def encoded() -> list[int]:
            self._tokenizer.encode_special_tokens = not parse_special
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
            return ids

        ids = self._encode(encoded)
        prepend = self._add_bos if add_bos is None else add_bos
        if not prepend:
            return ids
        if self.bos_id is None:
            raise RequestError("this model has no token to begin a prompt with")
        return [self.bos_id, *ids]

    def _encode(self, encoded: Callable[[], list[int]]) -> list[int]:
        """What `encoded` returns, which has the tokenizer and its switches for itself."""
        with self._lock:
            try:
                ids = encoded()
            except (TypeError, UnicodeError) as error:
                raise RequestError("the prompt is not valid Unicode text") from error
        if ids and max(ids) >= self._vocab_size:
            raise RequestError(f"the prompt needs token {max(ids)}, the model has {self._vocab_size}")
        return ids

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Text of token ids; an incomplete character at the end is U+FFFD. Control tokens leave no text."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=skip_special)
        return text

    @property
    def vocab_size(self) -> int:
        """How many logits the model gives; it may be more than the tokenizer has tokens."""
        return self._vocab_size

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes of every token, by id, none for ids of the model that the tokenizer has not; see
        `sampan.models.token_bytes`.
        """
        known = vocabulary_bytes(self._tokenizer)[: self._vocab_size]
        return known + [b""] * (self._vocab_size - len(known))

    def is_end(self, token: int) -> bool:
        """Whether generation ends with this token."""
        return token in self.eos_ids

    def chat_prompt(
        self, messages: Sequence[Mapping[str, Any]], **options: Unpack[ChatOptions]
    ) -> ChatPrompt:
        """The prompt that the file's chat template makes of a conversation; `messages` as OpenAI's API has
        them, see `sampan.models.messages`. RequestError names the message and the field that are wrong.
        """
        try:
            return self._chat_prompt(messages, options)
        except RecursionError as error:
            raise RequestError("the messages or tools are nested too deeply") from error

    def render_chat(self, messages: Sequence[Mapping[str, Any]], **options: Unpack[ChatOptions]) -> str:
        """The text of `chat_prompt`."""
        return self.chat_prompt(messages, **options).text

    def chat(self, messages: Sequence[Mapping[str, Any]], **options: Unpack[ChatOptions]) -> list[int]:
        """The token ids of `chat_prompt`. The template writes the first token where the model wants one."""
        return self.chat_prompt(messages, **options).tokens

    def _chat_prompt(self, messages: Sequence[Mapping[str, Any]], options: ChatOptions) -> ChatPrompt:
        template, template_tools = self._chat_template()
        conversation = template_messages(messages)
        tools = options.get("tools", ())
        check_tools(tools)
        variables = options.get("options") or {}
        texts = list(strings_in([conversation, tools, variables]))
        unused = unused_characters(texts)
        guard = None
        if any(self.control_texts.threaten(text) for text in texts):
            guard = next(unused)
            conversation = guarded_messages(conversation, self.control_texts, guard, self._sought_texts)
            tools = guarded_value(tools, self.control_texts, guard)
            variables = guarded_value(variables, self.control_texts, guard)
        end = next(unused) if options.get("continue_final") else None
        if end is not None:
            _mark_end(conversation, end)
        conversation, tools = _fitted_to(template_tools, conversation, tools)
        opened = end is None and options.get("add_generation_prompt", True)
        text = template.render(conversation, opened, variables, tools)
        if end is not None:
            text, found, _ = text.rpartition(end)
            if not found:
                raise RequestError(
                    f"message {len(messages) - 1}: cannot be continued, because the chat template does not "
                    "write its content as it is"
                )
        if guard is None:
            return ChatPrompt(text, self.encode(text, add_bos=False, parse_special=True))
        controls = frozenset(self.control_tokens.values())
        ids = self._encode(lambda: encode_guarded(self._tokenizer, text, guard, controls))
        return ChatPrompt(text.replace(guard, ""), ids)

    @cached_property
    def _sought_texts(self) -> frozenset[str]:
        """Control texts that the chat template looks for in what it is given."""
        template, _ = self._chat_template()
        return frozenset(text for text in self.control_texts if template.looks_for(text))

    def _chat_template(self) -> tuple[ChatTemplate, TemplateTools]:
        if self.template_source is None:
            raise RequestError(
                "this model's file has no chat template; give a plain prompt instead of messages"
            )
        if self._template is None:
            template = ChatTemplate(self.template_source, self._special_tokens)
            self._template = template, TemplateTools(template)
        return self._template


def _fitted_to(
    template: TemplateTools, messages: list[dict[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], Sequence[Mapping[str, Any]]]:
    """Messages and tools as the template can write them: what it has no place for becomes text."""
    number = next((n for n, m in enumerate(messages) if "tool_calls" in m or m["role"] == "tool"), None)
    if number is not None and template.call_example is None:
        if template.described:
            raise RequestError(
                f"message {number}: this model's chat template has no place for calls and their results"
            )
        messages = with_calls_as_text(messages)
    if tools and not template.described:
        example = template.call_example or call_as_text()
        return with_tools_described(messages, tools, example), ()
    return messages, tools


def _mark_end(conversation: list[dict[str, Any]], end: str) -> None:
    """Put `end` behind the last message's content, where its continuation begins."""
    last = conversation[-1]
    if last["role"] != "assistant" or not last["content"] or "tool_calls" in last:
        raise RequestError(
            f"message {len(conversation) - 1}: only a message of the assistant that has content and no tool "
            "calls can be continued"
        )
    last["content"] += end


def _checked(config: Mapping[str, Any], key: str, kind: type, default: Any) -> Any:
    value = config.get(key)
    if value is None:
        return default
    if type(value) is not kind:
        raise FormatError(f"tokenizer_config.json: {key} must be a {kind.__name__}")
    return value
