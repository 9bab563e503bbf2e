"""RMSNorm (Zhang and Sennrich 2019), with the residual addition before it folded in."""

from __future__ import annotations

import torch


def add_rms_norm(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """residual += x, then residual / rms(residual) * weight.

    Args:
        x: [tokens, hidden].
        residual: [tokens, hidden], updated in place; pass zeros for a plain norm.
        weight: [hidden] float32.
        eps: added to the mean square.

    Returns:
        [tokens, hidden] in x's dtype
    """
    if x.is_cuda:
        from kernels.cuda import norm as cuda

        return cuda.add_rms_norm(x, residual, weight, eps)
    if x.shape[1] % 16:
        return reference(x, residual, weight, eps)
    from kernels.cpu import norm as cpu
    from kernels.cpu.numeric import array, use_threads

    out = torch.empty_like(x)
    use_threads(x.numel(), per_thread=8192)
    cpu.add_rms_norm(array(x), array(residual), array(weight), eps, array(out))
    return out


def reference(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """The same in torch, in float32."""
    residual += x
    wide = residual.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight).to(x.dtype)
