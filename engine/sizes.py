"""How much a step and the KV cache hold: what the arguments ask for, else what the device affords."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import psutil
import torch

from engine.args import EngineArgs
from engine.model.spec import DecoderSpec
from engine.params import ParameterError
from kernels.kv_cache import bytes_per_block

MIB = 1 << 20
# On the CPU: a step long enough that reading the weights is shared, short enough that tokens keep coming.
CPU_TOKENS, CPU_SEQS, CPU_BLOCK, CPU_CACHE = 512, 64, 16, 2048 * MIB
# On CUDA: blocks that the copy engine takes whole; the sequences are those of a device under LARGE_DEVICE bytes.
CUDA_TOKENS, CUDA_SEQS, CUDA_BLOCK, CUDA_SCRATCH = 8192, 256, 64, 2048 * MIB
LARGE_DEVICE = 60 << 30
# Tokens from which on a step's time grows with them: about FLOP/s over bytes/s (bf16: 165 on an H200, 230 on an H100),
# and some more for what a step costs beside its products. On the CPU a few tokens suffice: nothing to pace.
CUDA_BALANCE, CPU_BALANCE = 512, 0
CPU_DRAFTED = 64  # tokens up to which drafts lengthen a step on the CPU; CUDA_BALANCE on CUDA


@dataclass(frozen=True)
class Sizes:
    """Limits of the engine, in tokens and sequences."""

    length: int
    tokens: int
    seqs: int
    block_size: int
    balance: int
    draft_room: int


def choose_sizes(args: EngineArgs, spec: DecoderSpec, device: torch.device) -> Sizes:
    """The engine's limits.

    Raises:
        ParameterError: they contradict each other or the model; the message says what is allowed.
    """
    length, cpu = model_length(args.max_model_len, spec.max_position, spec.max_position), device.type == "cpu"
    whole = 0 if args.enable_chunked_prefill else length
    tokens = args.max_num_batched_tokens or max(CPU_TOKENS if cpu else CUDA_TOKENS, whole)
    if tokens < whole:
        raise ParameterError(
            "max_num_batched_tokens", tokens, f"at least max_model_len={length} while enable_chunked_prefill is off"
        )
    return Sizes(
        length=length,
        tokens=tokens,
        seqs=args.max_num_seqs or CPU_SEQS if cpu else _cuda_sequences(args.max_num_seqs, spec, length, device),
        block_size=args.block_size or (CPU_BLOCK if cpu else CUDA_BLOCK),
        balance=CPU_BALANCE if cpu else CUDA_BALANCE,
        draft_room=0 if args.speculative_config is None else CPU_DRAFTED if cpu else CUDA_BALANCE,
    )


def model_length(asked: int | None, default: int, limit: int) -> int:
    """``max_model_len``: what is asked for, up to the positions that the model has."""
    if asked is not None and asked > limit:
        raise ParameterError("max_model_len", asked, f"at most {limit}, the positions that the model has")
    return asked or default


def block_bytes(sizes: Sizes, specs: Iterable[DecoderSpec], dtype: torch.dtype) -> int:
    """Bytes of one block in the caches of all models together."""
    return sum(bytes_per_block(sizes.block_size, s.kv_heads, s.head_dim, s.layers, dtype) for s in specs)


def cache_blocks(sizes: Sizes, size: int, memory: int) -> int:
    """Blocks of ``size`` bytes: as many as ``memory`` bytes hold, but no more than all sequences can fill.

    Raises:
        ParameterError: not even one sequence of the greatest length fits.
    """
    per_sequence = -(-sizes.length // sizes.block_size)
    if memory // size < per_sequence:
        fits = max(0, memory // size * sizes.block_size)
        raise ParameterError(
            "max_model_len",
            sizes.length,
            f"at most {fits} with a KV cache of {memory / MIB:.1f} MiB: one sequence of {sizes.length} tokens needs "
            f"kv_cache_memory_bytes={per_sequence * size} ({per_sequence * size / MIB:.1f} MiB)",
        )
    return min(memory // size, per_sequence * sizes.seqs)


def cache_memory(args: EngineArgs, spec: DecoderSpec, sizes: Sizes, device: torch.device) -> int:
    """Bytes for the KV cache: what is asked for, else what is free once the weights are loaded."""
    if args.kv_cache_memory_bytes is not None:
        return args.kv_cache_memory_bytes
    if device.type == "cpu":
        return int(min(CPU_CACHE, psutil.virtual_memory().available * 0.5))
    free, total = torch.cuda.mem_get_info(device)
    return int(free - total * (1 - args.gpu_memory_utilization)) - _step_memory(spec, sizes)


def check_host_memory(blocks: int, size: int, device: torch.device) -> None:
    """Refuse a cache on the CPU that the host has no room for: it is allocated page by page, as it is used.

    Raises:
        ParameterError: ``blocks`` of ``size`` bytes are more than the memory that is free.
    """
    free = psutil.virtual_memory().available
    if device.type == "cpu" and blocks * size > free:
        raise ParameterError(
            "kv_cache_memory_bytes",
            blocks * size,
            f"at most {free // size * size} ({free / MIB:.0f} MiB are free); lower it, max_num_seqs or max_model_len",
        )


def swap_slots(args: EngineArgs, size: int) -> int:
    """Blocks of ``size`` bytes that preempted requests may keep in host memory; 0 recomputes them.

    Raises:
        ParameterError: the host has less memory free.
    """
    if args.preemption_mode != "swap":
        return 0
    memory, free = int(args.swap_space * (1 << 30)), psutil.virtual_memory().available
    if memory > free:
        raise ParameterError("swap_space", args.swap_space, f"at most {free / (1 << 30):.1f}, the GiB that are free")
    return memory // size


def _cuda_sequences(asked: int | None, spec: DecoderSpec, length: int, device: torch.device) -> int:
    """Sequences per step on a CUDA device: by its memory, and so that decode attention's scratch stays bounded."""
    from kernels.cuda.numerics import PIECE

    per_sequence = -(-length // PIECE) * spec.heads * (spec.head_dim + 2) * 4
    most = max(1, CUDA_SCRATCH // per_sequence)
    if asked is not None and asked > most:
        raise ParameterError(
            "max_num_seqs",
            asked,
            f"at most {most} with max_model_len={length}: decode attention keeps {per_sequence / MIB:.1f} MiB for each "
            f"sequence, {CUDA_SCRATCH / MIB:.0f} MiB in all; a lower max_model_len allows more",
        )
    if asked is not None:
        return asked
    large = torch.cuda.get_device_properties(device).total_memory > LARGE_DEVICE
    return min(CUDA_SEQS * 4 if large else CUDA_SEQS, most)


def _step_memory(spec: DecoderSpec, sizes: Sizes) -> int:
    """Bytes to keep free for a step: activations, logits and scratch, with room for the allocator's gaps."""
    width = 3 * spec.intermediate_size + 8 * spec.hidden_size + 3 * spec.heads * spec.head_dim
    return 4 * sizes.tokens * width + (sizes.seqs + sizes.draft_room) * spec.vocab_size * 8 + CUDA_SCRATCH
