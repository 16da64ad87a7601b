"""Text to tokens and back, as the model's own tokenizer and chat template say."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sampan.errors import FormatError, RequestError
from sampan.models.chat_template import ChatTemplate
from sampan.models.tokenizer_import import parse_tokenizer


class Tokenizer:
    """A model's tokenizer, made from what `import_tokenizer` returned and the pack keeps.

    Safe to use from several threads. Control tokens written in plain text are encoded as text; in a chat they
    count wherever the rendered prompt has them, user messages included, because a template's output is one
    string.
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
        self._template_source = template
        self._template: ChatTemplate | None = None

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
        return self._template_source is not None

    def encode(self, text: str, *, add_bos: bool | None = None, parse_special: bool = False) -> list[int]:
        """Token ids of `text`. `add_bos`: None does as the file says.

        `parse_special` makes control tokens out of their texts; leave it off for text that a user wrote.
        RequestError when the text is not valid Unicode or needs a token the model has not.
        """
        with self._lock:
            # The switch belongs to the shared tokenizer, hence the lock.
            self._tokenizer.encode_special_tokens = not parse_special
            try:
                ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
            except (TypeError, UnicodeError) as error:
                raise RequestError("the prompt is not valid Unicode text") from error
        if ids and max(ids) >= self._vocab_size:
            raise RequestError(f"the prompt needs token {max(ids)}, the model has {self._vocab_size}")
        prepend = self._add_bos if add_bos is None else add_bos
        if prepend:
            if self.bos_id is None:
                raise RequestError("this model has no token to begin a prompt with")
            return [self.bos_id, *ids]
        return ids

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Text of token ids; an incomplete character at the end is U+FFFD. Control tokens leave no text."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=skip_special)
        return text

    @property
    def vocab_size(self) -> int:
        """How many logits the model gives; it may be more than the tokenizer has tokens."""
        return self._vocab_size

    def to_json(self) -> str:
        """The tokenizer as the `tokenizers` library writes it."""
        text: str = self._tokenizer.to_str()
        return text

    def is_end(self, token: int) -> bool:
        """Whether generation ends with this token."""
        return token in self.eos_ids

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt the file's chat template makes of `messages` (each a role and a content, both strings).

        `options` are further variables of the template, such as `enable_thinking`.
        """
        if self._template_source is None:
            raise RequestError(
                "this model's file has no chat template; give a plain prompt instead of messages"
            )
        if not messages:
            raise RequestError("a chat needs at least one message")
        for number, message in enumerate(messages):
            if not isinstance(message, Mapping) or not all(
                isinstance(message.get(key), str) for key in ("role", "content")
            ):
                raise RequestError(f"message {number} needs a role and a content, both strings")
        if self._template is None:
            self._template = ChatTemplate(self._template_source, self._special_tokens)
        return self._template.render(messages, add_generation_prompt, options or {})

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Token ids of `render_chat`. The template writes the first token where the model wants one."""
        text = self.render_chat(messages, add_generation_prompt=add_generation_prompt, options=options)
        return self.encode(text, add_bos=False, parse_special=True)


def _checked(config: Mapping[str, Any], key: str, kind: type, default: Any) -> Any:
    value = config.get(key)
    if value is None:
        return default
    if type(value) is not kind:
        raise FormatError(f"tokenizer_config.json: {key} must be a {kind.__name__}")
    return value
