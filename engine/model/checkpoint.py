"""A model's tensors by name, from files or drawn at random; each is given away once."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from engine.model.errors import UnsupportedModelError
from engine.model.weights import dummy_weights

# Tensors that some checkpoints carry and no model here needs: they follow from the config or repeat another tensor.
DERIVED = ("rotary_emb.inv_freq", "position_ids", "lm_head.weight", "pooler.dense.weight", "pooler.dense.bias")


class Checkpoint:
    """Hands a model its tensors, in its dtype and on its device, and checks their shapes.

    Every tensor is taken once and then forgotten, so that memory holds it once. ``finish`` reports what nobody took: a
    bias or norm that the model would silently leave out.
    """

    def __init__(
        self,
        tensors: Iterable[tuple[str, torch.Tensor]] | None,
        dtype: torch.dtype,
        device: torch.device,
        seed: int = 0,
        prefix: str = "",
    ) -> None:
        """Collect the tensors; ``None`` draws each at random when it is taken.

        Args:
            tensors: names and tensors, on the CPU.
            dtype: of the tensors handed out.
            device: of the tensors handed out.
            seed: of random tensors.
            prefix: cut from the names that begin with it.
        """
        self.dtype = dtype
        self.device = device
        self._seed = seed
        self._tensors = None
        if tensors is not None:
            self._tensors = {name.removeprefix(prefix): tensor.to(dtype) for name, tensor in tensors}

    def take(self, name: str, *shape: int) -> torch.Tensor:
        """The tensor of this name.

        Raises:
            UnsupportedModelError: it is missing or has another shape.
        """
        if self._tensors is None:
            return next(dummy_weights({name: shape}, self._seed, self.dtype, self.device))[1]
        if name not in self._tensors:
            raise UnsupportedModelError(f"the checkpoint has no tensor {name!r}, which its config asks for")
        tensor = self._tensors.pop(name)
        if tensor.shape != shape:
            raise UnsupportedModelError(
                f"tensor {name!r} has shape {tuple(tensor.shape)}; the model's config asks for {shape}"
            )
        return tensor.to(self.device)

    def finish(self) -> None:
        """Verify that every tensor was taken.

        Raises:
            UnsupportedModelError: some were not; the message names the first.
        """
        left = [name for name in self._tensors or () if not name.endswith(DERIVED)]
        if left:
            raise UnsupportedModelError(
                f"the checkpoint has {len(left)} tensors that its architecture here does not use, first {left[0]!r}"
            )
