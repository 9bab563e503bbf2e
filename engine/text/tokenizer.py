"""Text to token ids and back, over transformers' tokenizers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from engine.model.files import PACKAGED, ModelFiles, ModelNotFoundError, resolve_model
from engine.text.byte_level import token_bytes
from engine.text.chat import ChatOptions, render_chat
from engine.text.convert import from_folder, from_gguf
from engine.text.template import ChatTemplateError, read_template

__all__ = ["ChatTemplateError", "TextError", "Tokenizer", "TokenizerNotFoundError", "load_tokenizer"]

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
_CONTEXT = 6  # prompt tokens that can influence how the first output token is written
_LOOK_BACK = 64  # prompt tokens searched for them


class TextError(ValueError):
    """A text that cannot be tokenized; the message says what in it is at fault."""


class TokenizerNotFoundError(ModelNotFoundError):
    """No usable tokenizer; the message names the model and what is missing."""


class Tokenizer:
    """One model's tokenizer. Encoding never truncates or pads, decoding never cleans up spaces.

    Args:
        hf: a transformers tokenizer; its truncation and padding settings are switched off here.
    """

    def __init__(self, hf: Any) -> None:
        self.hf = hf
        self._backend = getattr(hf, "backend_tokenizer", None)  # the Rust tokenizer; None for Python ones
        self._token_bytes: dict[int, bytes] = {}
        if self._backend is not None:
            self._backend.no_truncation()
            self._backend.no_padding()

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of ``text``.

        Raises:
            TextError: ``text`` is not a string, or holds a lone surrogate (half of a UTF-16 pair).
        """
        return self.encode_batch([text], add_special_tokens)[0]

    def encode_batch(self, texts: Sequence[str], add_special_tokens: bool = True) -> list[list[int]]:
        """``encode`` of each text, on all cores where the tokenizer can."""
        for text in texts:
            _check_text(text)
        if self._backend is None:
            return [list(self.hf.encode(text, add_special_tokens=add_special_tokens)) for text in texts]
        if self._backend.truncation is not None:  # a caller of ``hf`` asked for it there, and it stays set
            self._backend.no_truncation()
        if self._backend.padding is not None:
            self._backend.no_padding()
        encoded = self._backend.encode_batch_fast(list(texts), add_special_tokens=add_special_tokens)
        return [encoding.ids for encoding in encoded]

    def decode(
        self,
        ids: Sequence[int],
        skip_special_tokens: bool = True,
        spaces_between_special_tokens: bool = True,
        prompt_ids: Sequence[int] = (),
    ) -> str:
        """The text of ``ids``.

        Args:
            ids: token ids.
            skip_special_tokens: leave special tokens out.
            spaces_between_special_tokens: keep the space that some tokenizers write between adjacent added tokens.
            prompt_ids: what stands before ``ids``. Tokenizers of the SentencePiece family drop the first token's
                leading space at the start of a text, but not after a prompt; byte-level ones do not care.
        """
        if self.is_byte_level:
            return self._decode(ids, skip_special_tokens)
        context = self.context(prompt_ids)
        joined = skip_special_tokens or spaces_between_special_tokens
        parts = [[*context, *ids]] if joined else self._split_added(context, ids)
        text = "".join(self._decode(part, skip_special_tokens) for part in parts)
        return text[len(self._decode(context, skip_special_tokens)) :] if context else text

    def context(self, prompt_ids: Sequence[int]) -> list[int]:
        """The end of a prompt that decides how what follows is written; empty where nothing does.

        Byte tokens are left out: they say nothing about spaces, and would join with byte tokens of the output.
        """
        if self.is_byte_level:
            return []
        return [token_id for token_id in prompt_ids[-_LOOK_BACK:] if not self.is_byte_token(token_id)][-_CONTEXT:]

    def token_text(self, token_id: int) -> str:
        """One token's own text, special or not; U+FFFD stands for bytes that are no whole character."""
        return self._decode([token_id], skip_special_tokens=False)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a byte-level token stands for; empty for ids outside the vocabulary."""
        known = self._token_bytes.get(token_id)
        if known is None:
            token = self.hf.convert_ids_to_tokens(token_id)
            known = b"" if token is None else token_bytes(token)
            self._token_bytes[token_id] = known
        return known

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, Any]], *, chat_template: str | None = None, **options: Any
    ) -> list[int]:
        """Token ids of a conversation; ``options`` are those of ``ChatOptions``, and further ones the template's own.

        Raises:
            ChatTemplateError: there is no template, it refuses the conversation, or an option is wrong.
        """
        known = {name: options.pop(name) for name in ChatOptions.__dataclass_fields__ if name in options}
        chosen = ChatOptions(chat_template=chat_template, **known, chat_template_kwargs=options)
        return self.encode(render_chat(self.hf, messages, chosen).text, add_special_tokens=False)

    @cached_property
    def added_ends(self) -> tuple[int, int]:
        """How many special tokens ``encode`` puts before and after a text."""
        bare, whole = self.encode("a", add_special_tokens=False), self.encode("a")
        before = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
        return before, len(whole) - before - len(bare)

    @property
    def truncation_side(self) -> str:
        """``left`` or ``right``: where the tokenizer says that a long text is cut."""
        side: str = self.hf.truncation_side
        return side

    @property
    def eos_token_id(self) -> int | None:
        """The id that ends a text, if the tokenizer names one."""
        value: int | None = self.hf.eos_token_id
        return value

    @cached_property
    def vocab_size(self) -> int:
        """Token ids run from 0 to below this, added tokens included; the model's own table may have more rows."""
        highest: int = max(self.hf.get_vocab().values())
        return highest + 1

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that ``skip_special_tokens`` leaves out."""
        added = {token_id for token_id, token in self.hf.added_tokens_decoder.items() if token.special}
        return frozenset(added if self._backend is not None else added | set(self.hf.all_special_ids))

    @cached_property
    def added_ids(self) -> frozenset[int]:
        """Ids of tokens added to the trained vocabulary, special ones among them."""
        return frozenset(self.hf.added_tokens_decoder)

    @cached_property
    def is_byte_level(self) -> bool:
        """Whether the text is nothing but the tokens' bytes in a row (GPT-2's scheme: Llama 3, Qwen, SmolLM2)."""
        if self._backend is None:
            return False
        from tokenizers.decoders import ByteLevel

        return isinstance(self._backend.decoder, ByteLevel)

    def knows(self, token_id: int) -> bool:
        """Whether the id stands for a token; a model's table often has more rows than there are."""
        return self.hf.convert_ids_to_tokens(token_id) is not None

    def is_byte_token(self, token_id: int) -> bool:
        """Whether a token is a single raw byte, written ``<0xE4>`` (SentencePiece's byte fallback)."""
        token = self.hf.convert_ids_to_tokens(token_id)
        return isinstance(token, str) and len(token) == 6 and token.startswith("<0x") and token.endswith(">")

    def digest(self) -> str:
        """sha256 in hex over everything that decides ids and text: the tokenizer's own state and the chat template."""
        state = json.dumps(sorted(self.hf.get_vocab().items())) if self._backend is None else self._backend.to_str()
        special = json.dumps([self.hf.chat_template, sorted(self.special_ids), self.eos_token_id], sort_keys=True)
        return hashlib.sha256(f"{state}\0{special}".encode()).hexdigest()

    def _decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        if self._backend is not None:
            text: str = self._backend.decode(list(ids), skip_special_tokens=skip_special_tokens)
        else:
            text = self.hf.decode(
                list(ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
            )
        return text

    def _split_added(self, context: Sequence[int], ids: Sequence[int]) -> list[list[int]]:
        """Parts that begin anew between two adjacent added tokens, so that no space is written there."""
        parts = [list(context)]
        for token_id in ids:
            if parts[-1] and token_id in self.added_ids and parts[-1][-1] in self.added_ids:
                parts.append([])
            parts[-1].append(token_id)
        return parts


def _check_text(text: object) -> None:
    if not isinstance(text, str):
        raise TextError(f"a text must be a string, not {type(text).__name__}: {text!r:.80}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise TextError(f"character {error.start} of the text is U+{code:04X}, half of a surrogate pair") from None


def load_tokenizer(
    files: ModelFiles, override: str | None = None, chat_template: str | Path | None = None
) -> Tokenizer:
    """The tokenizer of a model.

    Args:
        files: the model.
        override: take the tokenizer from here instead: a short name, folder, ``.gguf`` file or hub id.
        chat_template: in place of its own template: a Jinja template or a file with one.

    Raises:
        TokenizerNotFoundError: there is no tokenizer that transformers can load.
        ChatTemplateError: ``chat_template`` is neither a template nor a readable file.
    """
    template = None if chat_template is None else read_template(chat_template)
    name, source = (files.name, files.gguf or files.folder) if override is None else (override, _source(override))
    assert source is not None
    is_gguf = source.is_file()
    if not is_gguf and not any((source / file).is_file() for file in _TOKENIZER_FILES):
        raise TokenizerNotFoundError(f"no tokenizer for {name!r}: {source} holds none of {', '.join(_TOKENIZER_FILES)}")
    try:
        tokenizer = Tokenizer(from_gguf(source) if is_gguf else from_folder(source))
    except (OSError, ValueError, KeyError, ImportError, AttributeError, TypeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise TokenizerNotFoundError(f"no tokenizer for {name!r} in {source}: {reason}") from None
    if template is not None:
        tokenizer.hf.chat_template = template
    return tokenizer


def _source(override: str) -> Path:
    """A local folder may hold a tokenizer and nothing else; whatever else is named must be a model."""
    path = Path(override).expanduser()
    if path.is_dir() and override not in PACKAGED and not (any(path.glob("*.gguf")) and not any(path.glob("*.json"))):
        return path
    files = resolve_model(override, load_format="dummy")
    source = files.gguf or files.folder
    assert source is not None
    return source
