"""SentencePiece vocabularies inside GGUF files (Llama 2, Mistral): parity with transformers after the conversion."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from transformers import AutoTokenizer

from engine.model.files import resolve_model
from engine.text.tokenizer import load_tokenizer

PIECES = ["▁t", "he", "▁the", "▁f", "ox", "▁fox", "▁▁", "er", *"▁thefoxré!"]
TEXTS = ["the fox", "  the  fox\n", "日本 the é!", "</s>the", "", "the</s> fox"]


def write_gguf(path: Path, add_bos: bool | None) -> None:
    """A GGUF file with a SentencePiece vocabulary, byte tokens, a chat template, and one tensor."""
    pieces = list(dict.fromkeys(PIECES))
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(32)
    writer.add_rope_freq_base(1e4)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces])
    writer.add_token_types([2, 3, 3, *[6] * 256, *[1] * len(pieces)])
    writer.add_token_scores([0.0] * 259 + [-float(rank) for rank in range(len(pieces))])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    if add_bos is not None:
        writer.add_add_bos_token(add_bos)
    writer.add_chat_template("{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}")
    writer.add_tensor("token_embd.weight", np.zeros((259 + len(pieces), 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("add_bos", [True, False, None])
def test_parity_after_conversion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, add_bos: bool | None) -> None:
    monkeypatch.setenv("GALLEY_CACHE", str(tmp_path / "cache"))
    write_gguf(tmp_path / "m.gguf", add_bos)
    reference = AutoTokenizer.from_pretrained(str(tmp_path), gguf_file="m.gguf")
    tokenizer = load_tokenizer(resolve_model(str(tmp_path / "m.gguf")))
    for text in TEXTS:
        ids = reference.encode(text)
        assert tokenizer.encode(text) == ids
        assert tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=True)
        assert tokenizer.decode(ids, skip_special_tokens=False) == reference.decode(ids)
    assert (tokenizer.encode("the")[0] == 1) == (add_bos is not False)
    assert tokenizer.decode(tokenizer.encode("日本 the é!")) == "日本 the é!"
    conversation = [{"role": "user", "content": "the fox"}]
    expected = reference.apply_chat_template(conversation, return_dict=False)
    assert tokenizer.apply_chat_template(conversation) == expected
    assert expected[0] == 1
