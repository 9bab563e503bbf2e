"""Sleep gives memory back and loses nothing: outputs after waking are those that there would have been."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import psutil
import pytest
import torch

from engine import LLM, ParameterError, SamplingParams
from engine.execute.model_runner import ModelRunner
from engine.model.checkpoint import Checkpoint
from engine.model.decoder import Decoder
from engine.model.placement import move_tensors
from engine.model.spec import DecoderSpec
from engine.sleep import AsleepError
from tests.engine.ask import SMOLLM

MIB = 1 << 20
SAMPLED = SamplingParams(max_tokens=8, temperature=1.0, logprobs=1)
PROMPTS = ["The capital of France is", "Once upon a time"]


def drawn(llm: LLM) -> list[Any]:
    return [
        (o.outputs[0].token_ids, o.outputs[0].cumulative_logprob)
        for o in llm.generate(PROMPTS, SAMPLED, use_tqdm=False)
    ]


def parts_of(llm: LLM) -> tuple[list[weakref.ref[Any]], list[weakref.ref[Any]]]:
    """Weak references to the cache's tensors and to the model's."""
    runner: Any = llm._open.core.runner  # type: ignore[union-attr]
    assert isinstance(runner, ModelRunner)
    caches = [weakref.ref(tensor) for cache in runner.caches for tensor in (cache.keys, cache.values)]
    return caches, [
        weakref.ref(runner.model),
        weakref.ref(runner.model.embedding),
        weakref.ref(runner.model.layers[0].qkv),
    ]


@pytest.mark.parametrize("level", [1, 2])
def test_outputs_go_on_to_the_bit_and_memory_is_given_back(level: int) -> None:
    """Unseeded draws depend on the requests' numbers, which sleep does not touch."""
    with LLM(SMOLLM, dtype="float32", kv_cache_memory_bytes=512 * MIB) as llm:
        expected = [drawn(llm), drawn(llm)]
    with LLM(SMOLLM, dtype="float32", kv_cache_memory_bytes=512 * MIB) as llm:
        found = [drawn(llm)]
        for cache in llm._open.core.runner.caches:  # type: ignore[union-attr]
            cache.keys.fill_(0)  # pages count from when they are written
            cache.values.fill_(0)
        del cache
        caches, weights = parts_of(llm)
        steps = llm.stats().steps
        process = psutil.Process()
        awake = process.memory_info().rss
        assert not llm.is_sleeping()
        llm.sleep(level)
        gc.collect()
        assert llm.is_sleeping()
        assert not any(ref() for ref in caches), "the cache is gone"
        assert [ref() is not None for ref in weights] == [level == 1] * len(weights)
        freed = awake - process.memory_info().rss
        assert freed > (400 if level == 1 else 700) * MIB
        with pytest.raises(AsleepError, match="wake_up"):
            llm.generate("a", use_tqdm=False)
        with pytest.raises(AsleepError):
            next(llm.stream(["a"]))
        with pytest.raises(AsleepError):
            llm.reset_prefix_cache()
        assert llm.stats().steps == steps, "counters can be read"
        assert llm.stats().numerics["device"] == "cpu"
        assert llm.get_tokenizer() is not None
        assert llm.wake_up() is True
        assert not llm.is_sleeping()
        found.append(drawn(llm))
        assert found == expected


def test_waking_by_tags() -> None:
    with LLM(SMOLLM, load_format="dummy", max_model_len=64, skip_tokenizer_init=True) as llm:

        def draw() -> Any:
            params = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True)
            return llm.generate({"prompt_token_ids": [5, 6]}, params, use_tqdm=False)[0].outputs[0].token_ids

        expected = draw()
        for order in (["weights", "kv_cache"], ["kv_cache", "weights"]):
            llm.sleep(2)
            assert llm.wake_up([order[0]]) is False
            assert llm.is_sleeping()
            with pytest.raises(AsleepError):
                draw()
            assert llm.wake_up([order[1]]) is True
            assert draw() == expected
        llm.sleep(1)
        llm.sleep(2)
        assert llm._sleep._weights is None, "a deeper sleep drops what the lighter one kept"
        assert llm.wake_up() is True
        assert llm.wake_up() is True
        assert draw() == expected
        for arguments, message in (
            ({"level": 3}, "level=3.*1 .*2"),
            ({"mode": "now"}, "mode='now'.*abort, wait, keep"),
        ):
            with pytest.raises(ParameterError, match=message):
                llm.sleep(**arguments)
        with pytest.raises(ParameterError, match=r"tags=\['wights'\].*weights, kv_cache"):
            llm.wake_up(["wights"])


def test_an_open_stream_keeps_the_engine_awake(smol: LLM, limited: Callable[..., LLM]) -> None:
    stream = smol.stream(["a"] * 500, SamplingParams(max_tokens=2))
    next(stream)
    with pytest.raises(RuntimeError, match=r"stream .* is open"):
        smol.sleep()
    stream.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("level", [1, 2])
def test_embedding_models_sleep_too(level: int) -> None:
    with LLM("all-minilm-l6-v2", dtype="float32") as llm:
        (expected,) = llm.embed("a cat", use_tqdm=False)
        words = weakref.ref(llm._open.core.encoder.words)  # type: ignore[union-attr]
        llm.sleep(level)
        assert (words() is None) == (level == 2)
        with pytest.raises(AsleepError):
            llm.embed("a cat", use_tqdm=False)
        assert llm.get_metrics()
        llm.wake_up()
        (found,) = llm.embed("a cat", use_tqdm=False)
        assert found.outputs.embedding == expected.outputs.embedding


def test_moving_reaches_every_tensor_and_keeps_shared_ones_shared() -> None:
    spec = DecoderSpec(
        vocab_size=32, hidden_size=16, layers=2, heads=2, kv_heads=1, head_dim=8, intermediate_size=32, norm_eps=1e-5,
        max_position=16, rope={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0}, qkv_bias=True,
        output_bias=False, mlp_bias=False, qk_norm=True, sliding_window=0, tied=True,
    )  # fmt: skip
    decoder = Decoder(spec, Checkpoint(None, torch.float64, torch.device("cpu")), 16)  # float64 is never packed
    assert decoder.head._weight is decoder.embedding
    assert len(tensors_of(decoder, set())) > 15
    move_tensors(decoder, torch.device("meta"))
    assert {t.device.type for t in tensors_of(decoder, set())} == {"meta"}
    assert decoder.head._weight is decoder.embedding


def tensors_of(value: Any, seen: set[int]) -> list[torch.Tensor]:
    """Every tensor that the garbage collector can reach from an object of ours."""
    if id(value) in seen or isinstance(value, type):
        return []
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        return [value]
    if type(value).__module__.split(".")[0] not in ("engine", "kernels", "builtins"):
        return []
    if isinstance(value, (str, int, float, bytes)) or type(value).__name__ in ("module", "function", "method"):
        return []
    return [tensor for one in gc.get_referents(value) for tensor in tensors_of(one, seen)]
