"""Prompts that are embeddings instead of tokens."""

from __future__ import annotations

import hashlib

import torch

from engine.text.inputs import InputError


def read_embeds(given: object) -> torch.Tensor:
    """A caller's embeddings as a tensor [tokens, hidden] of its own, on the CPU.

    Raises:
        InputError: they are something else, or not finite.
    """
    shape = "a tensor of finite floats [tokens, hidden]"
    if not isinstance(given, torch.Tensor):
        raise InputError(f"prompt_embeds must be {shape}, not {given!r:.80}")
    if given.ndim == 3 and given.shape[0] == 1:
        given = given[0]
    if given.ndim != 2 or not given.is_floating_point():
        dtype = str(given.dtype).removeprefix("torch.")
        raise InputError(f"prompt_embeds must be {shape}, not {list(given.shape)} of {dtype}")
    own = given.detach().to("cpu", copy=True).contiguous()
    if not bool(own.isfinite().all()):
        raise InputError(f"prompt_embeds must be {shape}: some are not finite")
    return own


def embeds_salt(salt: bytes, embeds: torch.Tensor) -> bytes:
    """What separates the prefix cache's entries of these embeddings, whose tokens are all zeros, from all others'."""
    digest = hashlib.blake2b(b"embeds", digest_size=16)
    digest.update(len(salt).to_bytes(8, "little") + salt + repr((embeds.shape, embeds.dtype)).encode())
    digest.update(embeds.view(torch.uint8).numpy().tobytes())
    return digest.digest()
