"""A request of the asynchronous engine, on its way from the caller to the engine's thread and back."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from engine.output_stream import Item, LoopPost, OutputStream
from engine.outputs import CompletionOutput, Embedding, EmbeddingRequestOutput, RequestOutput
from engine.params import PoolingParams, Prompt, RequestOutputKind, SamplingParams
from engine.replies import refused
from engine.text.inputs import Input, InputError
from engine.text.reply import ReplyFormat


@dataclass(eq=False)
class Ask:
    """A prompt, and where its outputs go. ``reply`` and ``state`` are the engine thread's; everything else stays."""

    request_id: str
    prompt: Prompt
    params: SamplingParams | PoolingParams
    priority: int
    arrival: float
    stream: OutputStream
    post: LoopPost
    reply: ReplyFormat | None = None  # how the answer is to be parsed
    state: Literal["coming", "running", "aborted", "done"] = "coming"  # running: in the core; aborted: before it came

    @property
    def streams(self) -> bool:
        """Whether outputs are wanted before the request is finished."""
        params = self.params
        return isinstance(params, SamplingParams) and params.output_kind is not RequestOutputKind.FINAL_ONLY

    @property
    def seed_index(self) -> int:
        """The number that an unseeded request draws its noise by: its id where that is a number, else its id's digest.

        So tokens depend on the engine's seed and the id, and not on what arrived before; request ``"7"`` draws what
        the eighth prompt of a fresh ``LLM`` draws.
        """
        name = self.request_id
        if name.isascii() and name.isdecimal() and len(name) < 19:
            return int(name)
        return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8], "big")

    def answer(self, item: Item) -> None:
        """Tell the consumer, where there still is one."""
        self.post.send([(self.stream, item)])

    def failed(self, read: Input | InputError, error: str) -> Item:
        """The output of a prompt that cannot be run."""
        return refused(self.request_id, read, error, isinstance(self.params, PoolingParams))

    def aborted(self) -> Item:
        """The output of a request that ended before the engine had it."""
        if isinstance(self.params, PoolingParams):
            return EmbeddingRequestOutput(self.request_id, Embedding([]), error="the request was aborted")
        ends = [CompletionOutput(child, "", [], finish_reason="abort") for child in range(self.params.n)]
        return RequestOutput(self.request_id, None, [], ends)
