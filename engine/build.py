"""Builds an engine from its arguments; every limit is checked here, before the first request."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import torch

from engine.args import EngineArgs
from engine.costs import DecoderCosts
from engine.defaults import generation_defaults
from engine.device import choose_device, choose_dtype
from engine.execute.draft_model import DraftModelRunner
from engine.execute.model_runner import ModelRunner
from engine.execute.runner import Runner
from engine.execute.swap import CachedRunner, SwappingRunner
from engine.execute.warm_up import warm_up
from engine.generation import GenerationCore
from engine.intake import GenerationModel
from engine.model.checkpoint import Checkpoint
from engine.model.decoder import Decoder
from engine.model.encoder import Encoder
from engine.model.files import ModelFiles, resolve_model
from engine.model.overrides import ReadConfig, check_effective
from engine.model.sentence import pooling_mode, sentence_length
from engine.model.spec import DecoderSpec, EncoderSpec, read_spec
from engine.model.weights import iter_weights, read_config
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
    check_host_memory,
    choose_sizes,
    model_length,
    swap_slots,
)
from engine.speculate.config import read_speculative_config
from engine.speculate.draft_files import DraftModel, find_draft_model
from engine.speculate.proposer import Proposer
from engine.text.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class EngineParts:
    """The model, and how to make it and its runner once more: after sleep.

    ``model`` is ``None`` while an engine sleeps; ``runner`` takes the weights over.
    """

    model: Decoder | Encoder | None
    load: Callable[[], Decoder | Encoder]
    runner: Callable[[Decoder], Runner]


@dataclass(frozen=True)
class Engine:
    """A ready engine. ``generation_config`` holds the defaults of sampling parameters and the end ids."""

    core: GenerationCore | PoolingCore
    parts: EngineParts
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
        config = ReadConfig(read_config(files, args.hf_overrides))
        generation_config = generation_defaults(args, files)
        spec = read_spec(config)
        _check_runner(args, spec)
        dtype = choose_dtype(args.dtype, config, device)
        if device.type == "cuda" and args.batch_invariant:
            from kernels.cuda.gemm import configure_batch_invariant_gemms

            configure_batch_invariant_gemms()
    with clock.phase("tokenizer"):
        tokenizer = None if args.skip_tokenizer_init else load_tokenizer(files, args.tokenizer, args.chat_template)
    eos = end_ids(config, generation_config, tokenizer)
    check_effective(args.hf_overrides, config)
    if isinstance(spec, EncoderSpec):
        core: GenerationCore | PoolingCore
        core, parts = _pooling(args, files, spec, dtype, device, tokenizer, clock)
    else:
        core, parts = _generation(args, files, spec, dtype, device, tokenizer, eos, clock, decoder)
    return Engine(core, parts, tokenizer, files, config, generation_config, device, clock.seconds)


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
        ids |= set(value) if isinstance(value, (list, tuple)) else {value} if isinstance(value, int) else set()
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
) -> tuple[PoolingCore, EngineParts]:
    own = sentence_length(files) or spec.max_position
    length = model_length(args.max_model_len, own, spec.max_position)
    spec = replace(spec, pooling=pooling_mode(files))

    def load() -> Encoder:
        return Encoder(spec, _checkpoint(args, files, dtype, device, prefix="bert."))

    with clock.phase("load"):
        encoder = load()
    tokens = args.max_num_batched_tokens or (CPU_TOKENS * 8 if device.type == "cpu" else CUDA_TOKENS * 4)
    core = PoolingCore(encoder, length, tokens, args.max_num_seqs or CUDA_SEQS, tokenizer)
    return core, EngineParts(encoder, load, _no_runner)


def _no_runner(_: Decoder) -> Runner:
    raise TypeError("a pooling model has no runner")


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
) -> tuple[GenerationCore, EngineParts]:
    sizes = choose_sizes(args, spec, device)
    drafting = read_speculative_config(args.speculative_config)
    draft = find_draft_model(args, drafting, spec, sizes.length) if drafting and drafting.model else None
    size = block_bytes(sizes, [spec, draft.spec] if draft else [spec], dtype)
    slots = swap_slots(args, size)
    if args.kv_cache_memory_bytes is not None:  # known before the weights are read
        cache_blocks(sizes, size, args.kv_cache_memory_bytes)

    def load() -> Decoder:
        return Decoder(spec, _checkpoint(args, files, dtype, device), sizes.length)

    def load_draft(draft: DraftModel) -> Decoder:
        return Decoder(draft.spec, _checkpoint(args, draft.files, dtype, device), sizes.length)

    drafters: list[Decoder] = []  # loaded before the cache takes what memory is left, and again after a sleep

    def make_runner(decoder: Decoder) -> Runner:
        plain: CachedRunner = _runner(args, decoder, blocks, sizes, device)
        if draft:
            drafter = drafters.pop() if drafters else load_draft(draft)
            plain = DraftModelRunner(plain, _runner(args, drafter, blocks, sizes, device))
        return SwappingRunner(plain, slots) if slots else plain

    with clock.phase("load"):
        decoder = decoder or load()
        if draft:
            drafters.append(load_draft(draft))
    with clock.phase("cache"):
        blocks = cache_blocks(sizes, size, cache_memory(args, spec, sizes, device))
        check_host_memory(blocks, size, device)
        runner = make_runner(decoder)
    if device.type == "cpu":  # on CUDA kernels come from Triton's cache, and graphs are captured when they are due
        with clock.phase("warmup"):
            warm_up(runner, sizes.length, sizes.block_size)
    known = frozenset(token for token in eos if token < spec.vocab_size)  # a tokenizer may have more than the model
    model = GenerationModel(
        vocab_size=spec.vocab_size,
        max_model_len=sizes.length,
        eos_ids=known,
        seed=args.seed,
        costs=DecoderCosts.of(spec, decoder.dtype.itemsize, decoder.dtype.itemsize),
        embedding_size=spec.hidden_size if args.enable_prompt_embeds else None,
    )
    proposer = Proposer(drafting) if drafting else None
    limits = _limits(args, sizes, blocks, slots)
    core = GenerationCore(model, runner, limits, tokenizer, args.async_scheduling, proposer)
    return core, EngineParts(decoder, load, make_runner)


def _limits(args: EngineArgs, sizes: Sizes, blocks: int, slots: int) -> Limits:
    return Limits(
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


def _runner(args: EngineArgs, decoder: Decoder, blocks: int, sizes: Sizes, device: torch.device) -> CachedRunner:
    if device.type == "cpu":
        return ModelRunner(decoder, blocks, sizes.block_size, device)
    from engine.execute.cuda_runner import CudaModelRunner
    from kernels.cuda.options import KernelOptions, set_kernel_options

    set_kernel_options(KernelOptions(args.skinny_gemm, args.fused_gate, args.split_prefill, args.programmatic_launch))
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
