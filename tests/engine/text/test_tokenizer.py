"""Tokenizer: parity with transformers, chat templates, the GGUF conversion cache, error messages."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from engine.model.files import ModelFiles, resolve_model
from engine.text.tokenizer import ChatTemplateError, TextError, Tokenizer, TokenizerNotFoundError, load_tokenizer

TEXTS = [
    "",
    " ",
    "Hello, world!",
    "Grüße aus Köln – naïve café",  # noqa: RUF001
    "日本語のテキストと 한국어 텍스트, 中文。",
    "مرحبا بالعالم",
    "नमस्ते दुनिया",
    "👩‍👩‍👧‍👦 🇩🇪 🏳️‍🌈 é",
    "  two  spaces\n\n\tand tabs  ",
    "x = 12345.678e-9 // don't",
    "<|im_start|>user\nhi<|im_end|>",
    "\ufffd\u200b\x00\x7f",
]


@pytest.fixture(scope="module")
def smol() -> ModelFiles:
    return resolve_model("smollm2-135m-instruct")


@pytest.fixture(scope="module")
def reference(smol: ModelFiles) -> Any:
    """What transformers makes of the GGUF file itself."""
    assert smol.gguf is not None
    return AutoTokenizer.from_pretrained(str(smol.gguf.parent), gguf_file=smol.gguf.name)


@pytest.fixture(scope="module")
def tokenizer(smol: ModelFiles, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GALLEY_CACHE", str(tmp_path_factory.mktemp("cache")))
        first, second = load_tokenizer(smol), load_tokenizer(smol)
    assert first.digest() == second.digest()
    return second


@pytest.fixture(scope="module")
def minilm() -> Tokenizer:
    return load_tokenizer(resolve_model("all-minilm-l6-v2"))


@pytest.mark.parametrize("text", TEXTS)
def test_gguf_encoding_and_decoding_equal_transformers(tokenizer: Tokenizer, reference: Any, text: str) -> None:
    ids = reference.encode(text)
    assert tokenizer.encode(text) == ids
    assert tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=True)
    assert tokenizer.decode(ids, skip_special_tokens=False) == reference.decode(ids) == text


def test_gguf_special_tokens_and_template_equal_transformers(tokenizer: Tokenizer, reference: Any) -> None:
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "chat_template"):
        assert getattr(tokenizer.hf, name) == getattr(reference, name), name
    assert tokenizer.eos_token_id == tokenizer.encode("<|im_end|>")[0]
    assert tokenizer.vocab_size == len(reference)
    assert {token for token in range(30) if tokenizer.decode([token]) == ""} == tokenizer.special_ids


@pytest.mark.parametrize("add_special_tokens", [True, False])
def test_minilm_encoding_equals_transformers_and_is_never_cut(minilm: Tokenizer, add_special_tokens: bool) -> None:
    folder = resolve_model("all-minilm-l6-v2").folder
    reference = AutoTokenizer.from_pretrained(str(folder))
    texts = [*TEXTS, "many words " * 900]
    expected = [reference.encode(text, add_special_tokens=add_special_tokens) for text in texts]
    assert minilm.encode_batch(texts, add_special_tokens) == expected
    assert len(expected[-1]) >= 1800


CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Was ist 2+2?"},
    {"role": "assistant", "content": "4"},
]


@pytest.mark.parametrize(
    "flags",
    [
        {"add_generation_prompt": True},
        {"add_generation_prompt": False},
        {"add_generation_prompt": False, "continue_final_message": True},
        {"chat_template": "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}{{ mark }}", "mark": "!"},
    ],
)
def test_template_equals_transformers(tokenizer: Tokenizer, reference: Any, flags: dict[str, Any]) -> None:
    expected = reference.apply_chat_template(
        CONVERSATION, tokenize=True, return_dict=False, **{"add_generation_prompt": True, **flags}
    )
    assert tokenizer.apply_chat_template(CONVERSATION, **flags) == expected


def test_text_parts_are_joined(tokenizer: Tokenizer) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    assert tokenizer.apply_chat_template(parts) == tokenizer.apply_chat_template([{"role": "user", "content": "a\nb"}])


@pytest.mark.parametrize(
    ("messages", "flags", "expected"),
    [
        ([], {}, "no messages"),
        (["hi"], {}, "message 0 must be a mapping with role and content"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], {}, r"message 0: content\[0\] is of type 'image_url'"),
        (CONVERSATION, {"continue_final_message": True}, "exclude each other"),
        (CONVERSATION, {"chat_template": "{{ raise_exception('no system role') }}"}, "no system role"),
        (CONVERSATION, {"chat_template": "{% if"}, "no Jinja template"),
    ],
)
def test_refused_conversations(tokenizer: Tokenizer, messages: Any, flags: dict[str, Any], expected: str) -> None:
    with pytest.raises(ChatTemplateError, match=expected):
        tokenizer.apply_chat_template(messages, **flags)


def test_model_without_template_says_the_fix(minilm: Tokenizer) -> None:
    with pytest.raises(ChatTemplateError, match=r"no chat template: pass chat_template"):
        minilm.apply_chat_template(CONVERSATION)
    template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    ids = minilm.apply_chat_template(CONVERSATION, chat_template=template)
    assert minilm.decode(ids) == "be brief. was ist 2 + 2? 4"  # WordPiece's own way of writing


def test_decoding_does_not_clean_up_spaces(tokenizer: Tokenizer) -> None:
    text = "Wait , what ? I do n't know ."
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_bad_texts_are_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(TextError, match="not int: 3"):
        tokenizer.encode(3)  # type: ignore[arg-type]
    with pytest.raises(TextError, match=r"character 2 of the text is U\+D83D"):
        tokenizer.encode_batch(["fine", "ab\ud83d"])


def test_digest_sees_the_template_and_the_vocabulary(tokenizer: Tokenizer, minilm: Tokenizer, smol: ModelFiles) -> None:
    other = load_tokenizer(smol)
    assert other.digest() == tokenizer.digest() != minilm.digest()
    other.hf.chat_template = "{{ messages }}"
    assert other.digest() != tokenizer.digest()


def _load_digest(cache: str) -> str:
    import os

    os.environ["GALLEY_CACHE"] = cache
    return load_tokenizer(resolve_model("smollm2-135m-instruct")).digest()


def test_parallel_processes_convert_once_and_agree(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        digests = pool.map(_load_digest, [str(tmp_path)] * 2)
    assert digests == [tokenizer.digest()] * 2
    folders = list((tmp_path / "tokenizers").iterdir())
    assert len(folders) == 1, "no half-written or second copy is left"
    assert json.loads((folders[0] / "tokenizer.json").read_text())["model"]["type"] == "BPE"


def test_unwritable_cache_costs_time_only(smol: ModelFiles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GALLEY_CACHE", str(tmp_path / "file"))
    assert load_tokenizer(smol).decode([1], skip_special_tokens=False) == "<|im_start|>"


def test_override_and_missing_tokenizer(smol: ModelFiles, minilm: Tokenizer, tmp_path: Path) -> None:
    assert load_tokenizer(smol, "all-minilm-l6-v2").digest() == minilm.digest()
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(TokenizerNotFoundError, match=f"no tokenizer for '{tmp_path}': .* holds none of tokenizer.json"):
        load_tokenizer(ModelFiles(str(tmp_path), tmp_path, None, ()))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerNotFoundError, match=f"no tokenizer for '{tmp_path}' in {tmp_path}: .+"):
        load_tokenizer(ModelFiles(str(tmp_path), tmp_path, None, ()))
    with pytest.raises(ValueError, match="no such file or folder"):
        load_tokenizer(smol, "./nowhere")
