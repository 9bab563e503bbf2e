"""Builds an engine from its arguments; every limit is checked here, before the first request."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import psutil
import torch

from engine.args import EngineArgs
from engine.execute.model_runner import ModelRunner
from engine.execute.runner import Runner
from engine.generation import GenerationCore, GenerationModel
from engine.model.checkpoint import Checkpoint
from engine.model.decoder import Decoder
from engine.model.encoder import Encoder
from engine.model.files import ModelFiles, resolve_model
from engine.model.spec import DecoderSpec, EncoderSpec, read_spec
from engine.model.weights import iter_weights, read_config, read_generation_config
from engine.params import ParameterError
from engine.pooling import PoolingCore
from engine.schedule.scheduler import Limits
from engine.text.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
# Defaults on the CPU: a step long enough that reading the weights is shared, short enough that tokens keep coming.
CPU_TOKENS, CPU_SEQS, CPU_CACHE = 512, 64, 2048 * MIB
CUDA_TOKENS, CUDA_SEQS, CUDA_SCRATCH = 8192, 256, 2048 * MIB
LARGE_DEVICE = 60 << 30


@dataclass(frozen=True)
class Engine:
    """A ready engine."""

    core: GenerationCore | PoolingCore
    tokenizer: Tokenizer | None
    files: ModelFiles
    config: Mapping[str, Any]
    generation_config: Mapping[str, Any]
    device: torch.device
    startup: Mapping[str, float]


@dataclass
class _Clock:
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 3)


def build(args: EngineArgs) -> Engine:
    """Load the model and set everything up.

    Raises:
        ValueError: the model, an argument or the memory does not allow it; the message says what to change.
    """
    clock = _Clock()
    with clock.phase("config"):
        device = choose_device(args.device)
        files = resolve_model(args.model, args.revision, args.load_format)
        config = read_config(files, args.hf_overrides)
        generation_config = read_generation_config(files)
        spec = read_spec(config)
        _check_runner(args, spec)
        dtype = choose_dtype(args.dtype, config, device)
        if device.type == "cuda" and args.batch_invariant:
            from kernels.cuda.gemm import configure_batch_invariant_gemms

            configure_batch_invariant_gemms()
    with clock.phase("tokenizer"):
        tokenizer = None if args.skip_tokenizer_init else load_tokenizer(files, args.tokenizer)
    if isinstance(spec, EncoderSpec):
        core: GenerationCore | PoolingCore = _pooling(args, files, spec, dtype, device, tokenizer, clock)
    else:
        eos = end_ids(config, generation_config, tokenizer)
        core = _generation(args, files, spec, dtype, device, tokenizer, eos, clock)
    return Engine(core, tokenizer, files, config, generation_config, device, clock.seconds)


def choose_device(name: str) -> torch.device:
    """The device to run on; ``auto`` takes CUDA where there is one.

    Raises:
        ParameterError: CUDA is asked for and not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ParameterError("device", name, "cpu or auto on this machine: torch sees no CUDA device")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def choose_dtype(name: str, config: Mapping[str, Any], device: torch.device) -> torch.dtype:
    """The dtype of weights and activations; ``auto`` is the checkpoint's own, and float32 where it names none.

    float16 has no fast product on the CPU, so there ``auto`` takes bfloat16 in its place.
    """
    if name == "auto":
        name = str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")
        name = "bfloat16" if name == "float16" and device.type == "cpu" else name
    elif name == "float16" and device.type == "cpu":
        raise ParameterError("dtype", name, "auto, float32 or bfloat16 on the CPU")
    chosen: torch.dtype = getattr(torch, name)
    return chosen


def end_ids(
    config: Mapping[str, Any], generation_config: Mapping[str, Any], tokenizer: Tokenizer | None
) -> frozenset[int]:
    """Token ids that end an output: those of config, generation_config.json and tokenizer together."""
    ids: set[int] = set()
    for value in (
        config.get("eos_token_id"),
        generation_config.get("eos_token_id"),
        tokenizer and tokenizer.eos_token_id,
    ):
        ids |= set(value) if isinstance(value, list) else {value} if isinstance(value, int) else set()
    return frozenset(ids)


def _check_runner(args: EngineArgs, spec: DecoderSpec | EncoderSpec) -> None:
    own = "pooling" if isinstance(spec, EncoderSpec) else "generate"
    if args.runner not in ("auto", own):
        raise ParameterError("runner", args.runner, f"auto or {own} for model {args.model!r}")


def _checkpoint(
    args: EngineArgs, files: ModelFiles, dtype: torch.dtype, device: torch.device, prefix: str = ""
) -> Checkpoint:
    tensors = None if args.load_format == "dummy" else iter_weights(files)
    return Checkpoint(tensors, dtype, device, args.seed, prefix)


def _pooling(
    args: EngineArgs,
    files: ModelFiles,
    spec: EncoderSpec,
    dtype: torch.dtype,
    device: torch.device,
    tokenizer: Tokenizer | None,
    clock: _Clock,
) -> PoolingCore:
    own = _sentence_length(files) or spec.max_position
    length = _model_length(args.max_model_len, own, spec.max_position)
    spec = replace(spec, pooling=_pooling_mode(files))
    with clock.phase("load"):
        encoder = Encoder(spec, _checkpoint(args, files, dtype, device, prefix="bert."))
    tokens = args.max_num_batched_tokens or (CPU_TOKENS * 8 if device.type == "cpu" else CUDA_TOKENS * 4)
    return PoolingCore(encoder, length, tokens, args.max_num_seqs or CUDA_SEQS, tokenizer)


def _generation(
    args: EngineArgs,
    files: ModelFiles,
    spec: DecoderSpec,
    dtype: torch.dtype,
    device: torch.device,
    tokenizer: Tokenizer | None,
    eos: frozenset[int],
    clock: _Clock,
) -> GenerationCore:
    length = _model_length(args.max_model_len, spec.max_position, spec.max_position)
    cpu = device.type == "cpu"
    tokens = args.max_num_batched_tokens or max(
        CPU_TOKENS if cpu else CUDA_TOKENS, 0 if args.enable_chunked_prefill else length
    )
    seqs = args.max_num_seqs or (CPU_SEQS if cpu else cuda_sequences(spec, length, device))
    if not args.enable_chunked_prefill and tokens < length:
        raise ParameterError(
            "max_num_batched_tokens", tokens, f"at least max_model_len={length} while enable_chunked_prefill is off"
        )
    if args.kv_cache_memory_bytes is not None:  # known before the weights are read
        cache_blocks(args, spec, dtype, length, seqs, args.kv_cache_memory_bytes)
    with clock.phase("load"):
        decoder = Decoder(spec, _checkpoint(args, files, dtype, device), length)
    with clock.phase("cache"):
        memory = args.kv_cache_memory_bytes or _free_memory(args, device) - (
            0 if cpu else _step_memory(spec, tokens, seqs)
        )
        blocks = cache_blocks(args, spec, dtype, length, seqs, memory)
        runner = _runner(args, decoder, blocks, device, seqs, length)
    limits = Limits(
        max_tokens=tokens,
        max_seqs=seqs,
        blocks=blocks,
        block_size=args.block_size,
        chunked_prefill=args.enable_chunked_prefill,
        prefix_caching=args.enable_prefix_caching,
        policy="priority" if args.scheduling_policy == "priority" else "fcfs",
    )
    known = frozenset(token for token in eos if token < spec.vocab_size)  # a tokenizer may have more than the model
    model = GenerationModel(vocab_size=spec.vocab_size, max_model_len=length, eos_ids=known, seed=args.seed)
    return GenerationCore(model, runner, limits, tokenizer)


def _runner(args: EngineArgs, decoder: Decoder, blocks: int, device: torch.device, seqs: int, length: int) -> Runner:
    if device.type == "cpu":
        return ModelRunner(decoder, blocks, args.block_size, device)
    from engine.execute.cuda_runner import CudaModelRunner

    return CudaModelRunner(
        decoder, blocks, args.block_size, device, max_seqs=seqs, max_len=length, enforce_eager=args.enforce_eager
    )


def cuda_sequences(spec: DecoderSpec, length: int, device: torch.device) -> int:
    """Sequences per step on a CUDA device: by its memory, and so that decode attention's scratch stays bounded."""
    from kernels.cuda.numerics import PIECE

    large = torch.cuda.get_device_properties(device).total_memory > LARGE_DEVICE
    per_sequence = -(-length // PIECE) * spec.heads * (spec.head_dim + 2) * 4
    return max(1, min(CUDA_SEQS * 4 if large else CUDA_SEQS, CUDA_SCRATCH // per_sequence))


def _step_memory(spec: DecoderSpec, tokens: int, seqs: int) -> int:
    """Bytes to keep free for a step: activations, logits and scratch, with room for the allocator's gaps."""
    activations = tokens * 2 * (3 * spec.intermediate_size + 8 * spec.hidden_size + 3 * spec.heads * spec.head_dim)
    return 2 * activations + seqs * spec.vocab_size * 8 + CUDA_SCRATCH


def cache_blocks(args: EngineArgs, spec: DecoderSpec, dtype: torch.dtype, length: int, seqs: int, memory: int) -> int:
    """Blocks of the KV cache: as many as ``memory`` bytes hold, but no more than all sequences can fill.

    Raises:
        ParameterError: not even one sequence of ``length`` tokens fits.
    """
    from kernels.kv_cache import bytes_per_block

    size = bytes_per_block(args.block_size, spec.kv_heads, spec.head_dim, spec.layers, dtype)
    per_sequence = -(-length // args.block_size)
    if memory // size < per_sequence:
        fits = memory // size * args.block_size
        raise ParameterError(
            "max_model_len",
            length,
            f"at most {fits} with a KV cache of {memory / MIB:.1f} MiB: one sequence of {length} tokens needs "
            f"kv_cache_memory_bytes={per_sequence * size} ({per_sequence * size / MIB:.1f} MiB)",
        )
    return min(memory // size, per_sequence * seqs)


def _free_memory(args: EngineArgs, device: torch.device) -> int:
    """Bytes that the KV cache may take."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return int(free - total * (1 - args.gpu_memory_utilization))
    return int(min(CPU_CACHE, psutil.virtual_memory().available * 0.5))


def _model_length(asked: int | None, default: int, limit: int) -> int:
    if asked is not None and asked > limit:
        raise ParameterError("max_model_len", asked, f"at most {limit}, the positions that the model has")
    return asked or default


def _sentence_length(files: ModelFiles) -> int | None:
    """The sequence length that a sentence-transformers folder was trained for."""
    path = files.folder / "sentence_bert_config.json" if files.folder else None
    if path is None or not path.is_file():
        return None
    value = json.loads(path.read_text()).get("max_seq_length")
    return value if isinstance(value, int) else None


def _pooling_mode(files: ModelFiles) -> str:
    """``cls`` or ``mean``, as a sentence-transformers folder declares it."""
    path = files.folder / "1_Pooling" / "config.json" if files.folder else None
    if path is None or not path.is_file():
        return "mean"
    modes = [key for key, on in json.loads(path.read_text()).items() if key.startswith("pooling_mode_") and on is True]
    if modes == ["pooling_mode_cls_token"]:
        return "cls"
    if modes == ["pooling_mode_mean_tokens"]:
        return "mean"
    raise ParameterError("pooling mode", ", ".join(modes), "pooling_mode_mean_tokens or pooling_mode_cls_token")


def set_threads() -> None:
    """Use all of the machine's physical cores, unless OMP_NUM_THREADS says otherwise."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(psutil.cpu_count(logical=False) or 1)
