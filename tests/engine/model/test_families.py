"""Each supported family against transformers, on tiny random checkpoints that transformers saves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import BertConfig, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from engine import LLM, PoolingParams, SamplingParams
from engine.model.errors import UnsupportedModelError

SIZES: dict[str, Any] = {
    "vocab_size": 150,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "initializer_range": 0.25,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


def llama(**fields: Any) -> LlamaConfig:
    return LlamaConfig(**(SIZES | {"tie_word_embeddings": False} | fields))


def scaled(kind: str, **fields: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": 10000.0, **fields}


LLAMA3 = scaled("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
QWEN_WINDOW = {"use_sliding_window": True, "sliding_window": 20}

DECODERS: dict[str, Callable[[], Any]] = {
    "llama 2": lambda: llama(num_key_value_heads=4),
    "llama tied": lambda: llama(tie_word_embeddings=True),
    "llama, wide heads": lambda: llama(head_dim=32),
    "llama, one kv head": lambda: llama(num_key_value_heads=1),
    "llama with biases": lambda: llama(attention_bias=True, mlp_bias=True),
    "llama 3 rope": lambda: llama(rope_parameters=LLAMA3),
    "linear rope": lambda: llama(rope_parameters=scaled("linear", factor=4.0)),
    "yarn rope": lambda: llama(
        rope_parameters=scaled("yarn", factor=4.0, original_max_position_embeddings=64), head_dim=32
    ),
    "mistral, window": lambda: MistralConfig(**SIZES, sliding_window=20, tie_word_embeddings=False),
    "mistral, no window": lambda: MistralConfig(**SIZES, sliding_window=None, tie_word_embeddings=False),
    "qwen 2": lambda: Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen 2, window on no layer": lambda: Qwen2Config(**SIZES, **QWEN_WINDOW, max_window_layers=3),
    "qwen 2, window on all layers": lambda: Qwen2Config(**SIZES, **QWEN_WINDOW, max_window_layers=0),
    "qwen 3": lambda: Qwen3Config(**SIZES, tie_word_embeddings=False),
    "qwen 3 tied": lambda: Qwen3Config(**(SIZES | {"head_dim": 32}), tie_word_embeddings=True),
}


def saved(config: Any, folder: Path, kind: str = "AutoModelForCausalLM", **options: Any) -> Any:
    """A random model, biases and norms included, saved to the folder."""
    torch.manual_seed(len(str(config)))
    model = getattr(transformers, kind).from_config(config).float().eval()
    for name, weight in model.named_parameters():
        if weight.dim() == 1:
            torch.nn.init.normal_(weight, 1.0 if "norm" in name.lower() and "bias" not in name else 0.0, 0.3)
    model.save_pretrained(folder, **options)
    return model


def opened(folder: Path, **arguments: Any) -> LLM:
    return LLM(str(folder), **({"dtype": "float32", "skip_tokenizer_init": True} | arguments))


def compare(model: Any, llm: LLM) -> None:
    """Greedy tokens and every log-probability of prompt and output."""
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(1, 150, (length,), generator=generator).tolist() for length in (1, 17, 64, 120)]
    params = SamplingParams(temperature=0, max_tokens=12, prompt_logprobs=-1, logprobs=-1)
    outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False)
    for prompt, output in zip(prompts, outputs, strict=True):
        with torch.no_grad():
            generated = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, pad_token_id=0)
            exact = model(generated).logits[0].log_softmax(-1)
        (completion,) = output.outputs
        assert list(completion.token_ids) == generated[0, len(prompt) :].tolist()
        assert completion.logprobs is not None
        rows = [*(output.prompt_logprobs or ())[1:], *completion.logprobs]
        got = torch.tensor([[row[token].logprob for token in range(150)] for row in rows if row is not None])
        assert (got - exact[: len(got)]).abs().max().item() < 1e-4


@pytest.mark.parametrize("name", DECODERS)
def test_decoder(name: str, tmp_path: Path) -> None:
    model = saved(DECODERS[name](), tmp_path)
    with opened(tmp_path, max_num_batched_tokens=50) as llm:
        compare(model, llm)


def test_older_config_layout(tmp_path: Path) -> None:
    """Before transformers 5, the base and the scaling of rope stood in two entries, and no head_dim was written."""
    model = saved(llama(rope_parameters=LLAMA3 | {"rope_theta": 5000.0}), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    scaling = {key: value for key, value in config.pop("rope_parameters").items() if key != "rope_theta"}
    scaling["type"] = scaling.pop("rope_type")
    del config["head_dim"]
    (tmp_path / "config.json").write_text(json.dumps(config | {"rope_theta": 5000.0, "rope_scaling": scaling}))
    with opened(tmp_path) as llm:
        compare(model, llm)


def test_sharded_checkpoint(tmp_path: Path) -> None:
    model = saved(llama(), tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    with opened(tmp_path) as llm:
        compare(model, llm)


@pytest.mark.parametrize("block_size", [1, 2, 8, 32, 128])
def test_block_sizes(block_size: int, tmp_path: Path) -> None:
    model = saved(MistralConfig(**SIZES, sliding_window=20), tmp_path)
    with opened(tmp_path, block_size=block_size, max_num_batched_tokens=23) as llm:
        compare(model, llm)


@pytest.mark.parametrize("kind", ["AutoModel", "AutoModelForMaskedLM"])
@pytest.mark.parametrize("pooling", ["mean_tokens", "cls_token"])
def test_bert(kind: str, pooling: str, tmp_path: Path) -> None:
    sizes = {key: value for key, value in SIZES.items() if key not in ("num_key_value_heads", "head_dim")}
    config = BertConfig(**(sizes | {"pad_token_id": 0}), type_vocab_size=3)
    model = saved(config, tmp_path, kind)
    (tmp_path / "1_Pooling").mkdir()
    modes = {f"pooling_mode_{name}": name == pooling for name in ("cls_token", "mean_tokens", "max_tokens")}
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 64, **modes}))
    prompts = [list(range(5, 5 + length)) for length in (1, 2, 33, 120)]
    with opened(tmp_path) as llm:
        params = PoolingParams(normalize=False)
        outputs = llm.embed([{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False)
    for prompt, output in zip(prompts, outputs, strict=True):
        with torch.no_grad():
            hidden = getattr(model, "bert", model)(torch.tensor([prompt])).last_hidden_state[0]
        exact = hidden[0] if pooling == "cls_token" else hidden.mean(0)
        assert (torch.tensor(output.outputs.embedding) - exact).abs().max().item() < 1e-4


def rewrite(folder: Path, **entries: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "architecture 'MambaForCausalLM' is not supported.*LlamaForCausalLM"),
        ({"rope_parameters": scaled("dynamic", factor=2.0)}, "rope_type='dynamic'.*llama3, yarn"),
        ({"rope_parameters": scaled("spiral")}, "rope_type='spiral'.*llama3"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'.*silu"),
        ({"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 9}, "layer_types mixes"),
        ({"head_dim": 18}, "head_dim=18.*multiple of 4"),
        ({"num_hidden_layers": 4}, "no tensor 'model.layers.3"),
        ({"num_hidden_layers": 2}, "does not use, first 'model.layers.2"),
        ({"intermediate_size": 80}, r"shape \(96, 64\).*\(80, 64\)"),
        ({"num_key_value_heads": 3}, "num_key_value_heads=3 does not divide num_attention_heads=4"),
        ({"hidden_size": None}, "hidden_size=None.*at least 1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_unsupported_is_one_clear_error(entries: dict[str, Any], message: str, tmp_path: Path) -> None:
    saved(llama(), tmp_path)
    rewrite(tmp_path, **entries)
    with pytest.raises(UnsupportedModelError, match=message):
        opened(tmp_path)


def test_leftover_tensor_is_not_ignored(tmp_path: Path) -> None:
    saved(llama(), tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    save_file(weights | {"model.layers.1.self_attn.q_proj.bias": torch.zeros(64)}, path, metadata={"format": "pt"})
    with pytest.raises(UnsupportedModelError, match=r"1 tensors.*model\.layers\.1\.self_attn\.q_proj\.bias"):
        opened(tmp_path)
