"""Builds an engine from its arguments; every limit is checked here, before the first request."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import psutil
import torch

from engine.args import EngineArgs
from engine.costs import DecoderCosts
from engine.execute.draft_model import DraftModelRunner
from engine.execute.model_runner import ModelRunner
from engine.execute.runner import Runner
from engine.execute.swap import CachedRunner, SwappingRunner
from engine.generation import GenerationCore, GenerationModel
from engine.model.checkpoint import Checkpoint
from engine.model.decoder import Decoder
from engine.model.encoder import Encoder
from engine.model.files import ModelFiles, resolve_model
from engine.model.spec import DecoderSpec, EncoderSpec, read_spec
from engine.model.weights import iter_weights, read_config, read_generation_config
from engine.params import ParameterError
from engine.pooling import PoolingCore
from engine.schedule.limits import Limits
from engine.schedule.policy import Policy
from engine.sizes import (
    CPU_TOKENS,
    CUDA_SEQS,
    CUDA_TOKENS,
    Sizes,
    block_bytes,
    cache_blocks,
    cache_memory,
    choose_sizes,
    model_length,
    swap_slots,
)
from engine.speculate.config import read_speculative_config
from engine.speculate.draft_files import find_draft_model
from engine.speculate.proposer import Proposer
from engine.text.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator


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


def build(args: EngineArgs, decoder: Decoder | None = None) -> Engine:
    """Load the model and set everything up.

    Args:
        args: the engine's arguments.
        decoder: the model's weights where another engine has loaded them, with the same dtype and max_model_len.

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
        core = _generation(args, files, spec, dtype, device, tokenizer, eos, clock, decoder)
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
    length = model_length(args.max_model_len, own, spec.max_position)
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
    decoder: Decoder | None,
) -> GenerationCore:
    sizes = choose_sizes(args, spec, device)
    drafting = read_speculative_config(args.speculative_config)
    draft = find_draft_model(args, drafting, spec, sizes.length) if drafting and drafting.model else None
    size = block_bytes(sizes, [spec, draft.spec] if draft else [spec], dtype)
    slots = swap_slots(args, size)
    if args.kv_cache_memory_bytes is not None:  # known before the weights are read
        cache_blocks(sizes, size, args.kv_cache_memory_bytes)
    with clock.phase("load"):
        decoder = decoder or Decoder(spec, _checkpoint(args, files, dtype, device), sizes.length)
        drafter = draft and Decoder(draft.spec, _checkpoint(args, draft.files, dtype, device), sizes.length)
    with clock.phase("cache"):
        blocks = cache_blocks(sizes, size, cache_memory(args, spec, sizes, device))
        plain = _runner(args, decoder, blocks, sizes, device)
        if drafter:
            plain = DraftModelRunner(plain, _runner(args, drafter, blocks, sizes, device))
        runner: Runner = SwappingRunner(plain, slots) if slots else plain
    limits = Limits(
        max_tokens=sizes.tokens,
        max_seqs=sizes.seqs,
        blocks=blocks,
        block_size=sizes.block_size,
        chunked_prefill=args.enable_chunked_prefill,
        prefix_caching=args.enable_prefix_caching,
        policy=cast(Policy, args.scheduling_policy),
        balance=sizes.balance if args.enable_pacing and args.scheduling_policy == "longest_first" else 0,
        admission_control=args.enable_admission_control,
        swap_slots=slots,
        draft_room=sizes.draft_room,
    )
    known = frozenset(token for token in eos if token < spec.vocab_size)  # a tokenizer may have more than the model
    model = GenerationModel(
        vocab_size=spec.vocab_size,
        max_model_len=sizes.length,
        eos_ids=known,
        seed=args.seed,
        costs=DecoderCosts.of(spec, decoder.dtype.itemsize, decoder.dtype.itemsize),
    )
    proposer = Proposer(drafting) if drafting else None
    return GenerationCore(model, runner, limits, tokenizer, args.async_scheduling, proposer)


def _runner(args: EngineArgs, decoder: Decoder, blocks: int, sizes: Sizes, device: torch.device) -> CachedRunner:
    if device.type == "cpu":
        return ModelRunner(decoder, blocks, sizes.block_size, device)
    from engine.execute.cuda_runner import CudaModelRunner
    from kernels.cuda.options import KernelOptions, set_kernel_options

    set_kernel_options(KernelOptions(args.skinny_gemm, args.fused_gate, args.programmatic_launch))
    return CudaModelRunner(
        decoder,
        blocks,
        sizes.block_size,
        device,
        max_seqs=sizes.seqs,
        max_len=sizes.length,
        enforce_eager=args.enforce_eager,
        cascade=not args.disable_cascade_attn,
        concurrent=args.concurrent_attention,
    )


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
