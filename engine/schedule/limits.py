"""What bounds the scheduler."""

from __future__ import annotations

from dataclasses import dataclass

from engine.schedule.policy import Policy


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one step may hold, ``max_tokens`` computed tokens and ``max_seqs`` sequences, and what the cache holds.

    Args:
        max_tokens: tokens in one step.
        max_seqs: sequences in one step.
        blocks: blocks of the KV cache on the device.
        block_size: tokens in a block.
        chunked_prefill: whether a prompt may be computed over several steps.
        prefix_caching: whether blocks of equal beginnings are shared.
        policy: the order in which requests run.
        balance: tokens of a step that uses the device well, for ``Pacing``; 0 paces nothing.
        admission_control: start a request only where the running ones leave room for its whole life (``Admission``).
        swap_slots: blocks that preempted requests may keep in host memory; 0 recomputes them.
        draft_room: drafts lengthen a step up to so many tokens; beyond, they would cost more than they may gain.
    """

    max_tokens: int
    max_seqs: int
    blocks: int
    block_size: int
    chunked_prefill: bool = True
    prefix_caching: bool = True
    policy: Policy = "fcfs"
    balance: int = 0
    admission_control: bool = False
    swap_slots: int = 0
    draft_room: int = 0
