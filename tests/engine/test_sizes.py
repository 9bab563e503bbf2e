"""Limits that contradict the device are refused before anything is loaded."""

from __future__ import annotations

import pytest
import torch

from engine.args import EngineArgs
from engine.model.spec import DecoderSpec, read_spec
from engine.params import ParameterError
from engine.sizes import choose_sizes

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "rms_norm_eps": 1e-5,
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131_072,
}


def test_sequences_are_bounded_by_the_scratch_of_decode_attention() -> None:
    spec = read_spec(LLAMA)
    assert isinstance(spec, DecoderSpec)
    cuda = torch.device("cuda")
    assert choose_sizes(EngineArgs(model="x", max_num_seqs=4096, max_model_len=1024), spec, cuda).seqs == 4096
    with pytest.raises(
        ParameterError, match=r"max_num_seqs=4096 .* at most (\d+) with max_model_len=131072"
    ) as refused:
        choose_sizes(EngineArgs(model="x", max_num_seqs=4096), spec, cuda)
    most = int(str(refused.value).split("at most ")[1].split()[0])
    assert choose_sizes(EngineArgs(model="x", max_num_seqs=most), spec, cuda).seqs == most
    with pytest.raises(ParameterError):
        choose_sizes(EngineArgs(model="x", max_num_seqs=most + 1), spec, cuda)
    assert choose_sizes(EngineArgs(model="x", max_num_seqs=4096), spec, torch.device("cpu")).seqs == 4096
