"""Matrix products by the faster library, and the one decision which that is.

torch multiplies float32 matrices on a CPU by MKL, which makes full use of AVX-512 on Intel's
processors only: on one AMD EPYC with AVX-512 it stays at 105 GFLOP/s a core, where oneDNN, which is
in torch as well, reaches 230. Large products take oneDNN where a probe finds it the faster
(:mod:`flows.products`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from flows.products import LEAST_TERMS, by_onednn, chosen_products

__all__ = ["add_product", "product", "takes_onednn"]


def takes_onednn(factor: Tensor, terms: int) -> bool:
    """Whether a product of so many terms goes to oneDNN, whose operator knows no derivative.

    Args:
        factor: one of the matrices that are multiplied.
        terms: rows times columns of the result times the length of the sums.
    """
    if (
        terms < LEAST_TERMS
        or factor.dtype != torch.float32
        or factor.device.type != "cpu"
        or torch.compiler.is_compiling()
        or factor.numel() == 0
        or not torch.backends.mkldnn.enabled
        or torch._C._are_functorch_transforms_active()
    ):
        return False
    onednn_from = chosen_products().onednn_from
    return onednn_from is not None and terms >= onednn_from


def product(left: Tensor, right: Tensor, shift: Tensor | None = None) -> Tensor:
    """``left @ right + shift``, for code that writes its derivatives itself.

    Args:
        left: shape ``(m, k)``; may be a transposed view.
        right: shape ``(k, n)``; likewise.
        shift: shape ``(n,)``, added to each row; None for none.

    Returns:
        A fresh tensor of shape ``(m, n)``, of which autograd may know nothing.
    """
    if takes_onednn(left, left.numel() * right.shape[1]):
        return by_onednn(left, right.t(), shift)
    return torch.mm(left, right) if shift is None else torch.addmm(shift, left, right)


def add_product(result: Tensor, left: Tensor, right: Tensor) -> None:
    """``result += left @ right``, likewise.

    Args:
        result: shape ``(m, n)``; may be a part of a matrix.
        left: shape ``(m, k)``; likewise, also transposed.
        right: shape ``(k, n)``; likewise.
    """
    if takes_onednn(left, left.numel() * right.shape[1]):
        result.add_(by_onednn(left, right.t(), None))
    else:
        result.addmm_(left, right)
