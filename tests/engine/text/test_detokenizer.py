"""Incremental detokenizer: its pieces form exactly the text that decoding everything at once gives."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers
from tokenizers import Tokenizer as RustTokenizer
from transformers import PreTrainedTokenizerFast

from engine.model.files import resolve_model
from engine.text.detokenizer import IncrementalDetokenizer
from engine.text.tokenizer import Tokenizer, load_tokenizer

TEXTS = [
    "The quick brown fox doesn't jump.",
    "日本語と中文、한국어도 있습니다。",
    "👩‍👩‍👧‍👦🇩🇪 family 🏳️‍🌈 naïve é",
    "Привет, мир! שלום עולם مرحبا नमस्ते",
    "tabs\t\tand\n\n  spaces ",
    "㊙️𝕬𐍈🀄",
]
REPLACEMENT = "\ufffd"


def llama2_like() -> Tokenizer:
    """SentencePiece's scheme: word beginnings are marked, unknown characters become byte tokens."""
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("▁", "f"), ("o", "x"), ("▁f", "ox"), ("▁", "▁"), ("▁", "é")]
    words = [*"▁thefoxjumpsé日,"]
    words = list(dict.fromkeys([*words, *("".join(pair) for pair in merges)]))
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"<0x{byte:02X}>": 3 + byte for byte in range(256)}}
    vocab |= {word: 259 + number for number, word in enumerate(words)}
    rust = RustTokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    rust.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    rust.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    rust.add_special_tokens([AddedToken(token, special=True) for token in ("<unk>", "<s>", "</s>")])
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=rust, bos_token="<s>", eos_token="</s>"))


TOKENIZERS = {
    "smollm2": load_tokenizer(resolve_model("smollm2-135m-instruct")),
    "minilm": load_tokenizer(resolve_model("all-minilm-l6-v2")),
    "llama2_like": llama2_like(),
}


def pieces(tokenizer: Tokenizer, ids: list[int], prompt: list[int], skip: bool, spaces: bool) -> list[str]:
    detokenizer = IncrementalDetokenizer(tokenizer, prompt, skip, spaces)
    return [*(detokenizer.push(token_id) for token_id in ids), detokenizer.flush()]


@st.composite
def outputs(draw: st.DrawFn) -> tuple[str, list[int], list[int]]:
    """A tokenizer, output ids (random ones, byte tokens, special ones, real text cut anywhere) and a prompt."""
    name = draw(st.sampled_from(sorted(TOKENIZERS)))
    tokenizer = TOKENIZERS[name]
    texts = st.one_of(st.sampled_from(TEXTS), st.text(max_size=12)).map(
        lambda text: tokenizer.encode(text.encode("utf-8", "ignore").decode(), add_special_tokens=False)
    )
    random_ids = st.lists(st.integers(0, tokenizer.vocab_size + 2), max_size=8)
    low_ids = st.lists(st.integers(0, min(300, tokenizer.vocab_size - 1)), max_size=8)  # specials and single bytes
    ids = [token_id for part in draw(st.lists(st.one_of(texts, random_ids, low_ids), max_size=4)) for token_id in part]
    return name, ids[: draw(st.integers(0, len(ids)))], draw(texts)


@settings(max_examples=300, deadline=None)
@given(case=outputs(), skip=st.booleans(), spaces=st.booleans())
def test_pieces_form_the_whole_text(case: tuple[str, list[int], list[int]], skip: bool, spaces: bool) -> None:
    name, ids, prompt = case
    tokenizer = TOKENIZERS[name]
    for before in ([], prompt):
        found = "".join(pieces(tokenizer, ids, before, skip, spaces))
        assert found == tokenizer.decode(ids, skip, spaces, prompt_ids=before)
    if spaces:
        assert tokenizer.decode(ids, skip) == tokenizer.hf.backend_tokenizer.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", ["smollm2", "llama2_like"])
def test_text_arrives_whole_and_without_broken_characters(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    found = pieces(tokenizer, tokenizer.encode(text), [], True, True)
    assert "".join(found) == text
    assert all(REPLACEMENT not in piece for piece in found)
    if name == "smollm2":
        assert sum(map(bool, found)) > len(text) // 8, "text comes as it forms, not at the end"


def test_output_cut_inside_a_character_shows_it_only_at_the_end() -> None:
    tokenizer = TOKENIZERS["smollm2"]
    ids = tokenizer.encode("ok 👩")[:-1]
    *pushed, rest = pieces(tokenizer, ids, [], True, True)
    assert "".join(pushed) == "ok "
    assert rest == REPLACEMENT
    assert tokenizer.decode(ids) == "ok " + REPLACEMENT


def test_invalid_bytes_do_not_hold_the_stream_back() -> None:
    tokenizer = TOKENIZERS["smollm2"]
    lone = tokenizer.encode("👩")[-1]
    assert set(tokenizer.token_bytes(lone)) <= set(range(0x80, 0xC0)), "a continuation byte alone"
    ids = [lone] * 50 + tokenizer.encode("fine")
    found = pieces(tokenizer, ids, [], True, True)
    assert found[0] == REPLACEMENT
    assert "".join(found) == REPLACEMENT * 50 + "fine"


def test_space_after_a_prompt_is_kept_where_the_tokenizer_drops_it_at_the_start() -> None:
    tokenizer = TOKENIZERS["llama2_like"]
    ids = tokenizer.encode("the fox", add_special_tokens=False)
    assert tokenizer.decode(ids) == "the fox"
    assert "".join(pieces(tokenizer, ids, ids, True, True)) == " the fox"
    for prompt in ("fox", "fox\n", "fox 👩日"):
        before = tokenizer.encode(prompt)
        assert tokenizer.decode(ids, prompt_ids=before) == " the fox"
        assert tokenizer.decode(before + ids) == prompt + " the fox"


def test_spaces_between_special_tokens() -> None:
    tokenizer = TOKENIZERS["minilm"]
    mask, word = tokenizer.encode("[MASK] fox", add_special_tokens=False)
    ids = [word, mask, mask, word]
    assert tokenizer.decode(ids, False, True) == "fox [MASK] [MASK] fox"
    assert tokenizer.decode(ids, False, False) == "fox [MASK][MASK] fox"
    assert tokenizer.decode(ids, True, False) == "fox fox"


@pytest.mark.parametrize("name", sorted(TOKENIZERS))
def test_work_per_token_does_not_grow(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = TOKENIZERS[name]
    decoded: list[int] = []
    original = Tokenizer._decode

    def counting(self: Tokenizer, ids: list[int], skip_special_tokens: bool) -> str:
        decoded.append(len(ids))
        return original(self, ids, skip_special_tokens)

    monkeypatch.setattr(Tokenizer, "_decode", counting)
    ids = tokenizer.encode("the fox, the fox " * 200, add_special_tokens=False)
    pieces(tokenizer, ids, ids, True, True)
    assert max(decoded, default=0) <= 16
    assert len(decoded) <= 2 * len(ids) + 2
