"""Which library multiplies large float32 matrices on a CPU: the one that this machine is faster by.

torch has two. MKL is what ``torch.mm`` calls; it makes full use of AVX-512 on Intel's processors
only. oneDNN is called by the operator that torch's own compiler emits for linear layers, and a
call of it takes some 10 us longer. Which is faster from what size on differs between processors
that look alike, by up to 2.2 times, so that it is measured: once, where the first large product is
asked for, in about a tenth of a second on one thread.

The two round differently, so all processes whose results are to be the same must take the same
one. What was measured is therefore kept in the user's cache folder, for each kind of processor and
version of torch, and the environment variable ``FFJORD_BENCH_PRODUCTS`` sets it outright:

``mkl``
    never oneDNN.
``onednn:2097152``
    oneDNN for products of so many terms (rows x columns x length of the sums) or more, 2**21 at
    the least.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry, register_flop_formula

from flows.base import InputError
from flows.processor import processor

__all__ = [
    "LEAST_TERMS",
    "VARIABLE",
    "Products",
    "by_onednn",
    "chosen_products",
    "onednn_is_there",
    "probe",
]

VARIABLE = "FFJORD_BENCH_PRODUCTS"

LEAST_TERMS = 2**21
"""Terms below which oneDNN is never taken: there a call costs more than the product, and stacks of
torch's own operations, which are less Python, are the faster."""

# Rows of a square weight and of the batch: 2**21, 2**22, 2**23 and 2**25 terms.
_SIZES = ((64, 512), (128, 256), (128, 512), (256, 512))
_REPEATS = 8
# What oneDNN has to save: two measurements of the same thing differ by less on a busy machine.
_MARGIN = 0.1


@dataclass(frozen=True)
class Products:
    """The choice of a library.

    Attributes:
        onednn_from: terms from which on oneDNN is taken; None for never.
    """

    onednn_from: int | None = None

    @property
    def setting(self) -> str:
        """As the environment variable has it."""
        return "mkl" if self.onednn_from is None else f"onednn:{self.onednn_from}"

    @property
    def label(self) -> str:
        """In words.

        Example:
            >>> Products(2**21).label, Products(10**7).label
            ('oneDNN from 2**21 terms', 'oneDNN from 10000000 terms')
        """
        if self.onednn_from is None:
            return "MKL" if torch.backends.mkl.is_available() else "BLAS"
        power = self.onednn_from.bit_length() - 1
        terms = f"2**{power}" if self.onednn_from == 2**power else str(self.onednn_from)
        return f"oneDNN from {terms} terms"

    @classmethod
    def parse(cls, setting: str) -> Products:
        """The choice that a setting stands for.

        Raises:
            InputError: if it is none.

        Example:
            >>> Products.parse("onednn:2097152") == Products(2**21)
            True
        """
        match = re.fullmatch(r"mkl|onednn:(\d+)", setting.strip().lower())
        terms = None if match is None or match[1] is None else int(match[1])
        if match is None or (terms is not None and terms < LEAST_TERMS):
            raise InputError(
                f"{VARIABLE} = {setting!r}: 'mkl' or 'onednn:<terms>' was expected, with "
                f"{LEAST_TERMS} terms or more"
            )
        return cls(terms)


@functools.cache
def onednn_is_there() -> bool:
    """Whether this torch can multiply by oneDNN on this processor, as is checked for x86."""
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def by_onednn(rows: Tensor, weight: Tensor, shift: Tensor | None) -> Tensor:
    """``rows @ weight.T + shift`` by oneDNN, of which autograd knows nothing.

    Args:
        rows: float32 on a CPU, shape ``(n, inputs)``; not empty.
        weight: shape ``(outputs, inputs)``.
        shift: shape ``(outputs,)``, or None.

    Returns:
        A fresh tensor of shape ``(n, outputs)``.
    """
    # Of a weight with gaps, as a slice of a matrix has them, oneDNN makes a product without any
    # vectorisation, hundreds of times as slow, and a shift it reads as if it had none; rows are
    # copied by the operator itself.
    if not (weight.is_contiguous() or weight.t().is_contiguous()):
        weight = weight.contiguous()
    if shift is not None:
        shift = shift.contiguous()
    value: Tensor = torch.ops.mkldnn._linear_pointwise.default(rows, weight, shift, "none", [], "")
    return value


def _flops(rows: torch.Size, weight: torch.Size, *_: object, **__: object) -> int:
    return 2 * rows.numel() * weight[0]


if onednn_is_there() and torch.ops.mkldnn._linear_pointwise not in flop_registry:
    # So that whoever counts operations by torch's registry counts these as well.
    register_flop_formula(torch.ops.mkldnn._linear_pointwise)(_flops)


@functools.cache
def chosen_products() -> Products:
    """The choice of this process: what the variable says, what is kept, or what a probe finds.

    Raises:
        InputError: if the variable says what cannot be.
    """
    setting = os.environ.get(VARIABLE)
    if setting:
        given = Products.parse(setting)
        if given.onednn_from is not None and not onednn_is_there():
            raise InputError(f"{VARIABLE} = {setting!r}: torch has no oneDNN for this processor")
        return given
    if not onednn_is_there():
        return Products()
    path = _kept_at()
    return _read(path) or _keep(path, probe())


# -- measuring ---------------------------------------------------------------------------------


def probe() -> Products:
    """Measure both libraries on one thread: the products of a dense layer and of its gradients.

    oneDNN is taken from the size on from which it saves a clear part of the time, there and at
    all larger sizes. Repeats alternate between the two and the least counts, so that what other
    processes do meanwhile hardly shows.
    """
    found: list[Products] = []
    # A thread of its own is free of the modes of the one that asks: autocast, dispatch modes that
    # count operations, the profiler, a default device.
    thread = threading.Thread(target=lambda: found.append(_probe()))
    thread.start()
    thread.join()
    if not found:
        raise RuntimeError("the probe of the libraries for matrix products failed, see above")
    return found[0]


def _probe() -> Products:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        onednn_from = None
        # From the largest size down, as long as oneDNN wins.
        for width, rows in reversed(_SIZES):
            mkl, onednn = _seconds(width, rows)
            if onednn > (1 - _MARGIN) * mkl:
                break
            onednn_from = width * width * rows
        return Products(onednn_from)
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def _seconds(width: int, rows: int) -> tuple[float, float]:
    """Seconds of a dense layer's three products by MKL and by oneDNN, the least of the repeats."""
    weight, columns, grad = (
        torch.ones(width, length, dtype=torch.float32, device="cpu")
        for length in (width, rows, rows)
    )
    factors = [(weight, columns), (grad, columns.t()), (weight.t(), grad)]
    totals = [0.0, 0.0]
    for left, right in factors:
        actions: list[Callable[[Tensor, Tensor], object]] = [
            torch.mm,
            lambda left, right: by_onednn(left, right.t(), None),
        ]
        least = [float("inf")] * 2
        # The first call of each prepares for the shape, and counts for nothing.
        for repeat in range(_REPEATS + 1):
            for place, action in enumerate(actions):
                start = time.perf_counter()
                action(left, right)
                seconds = time.perf_counter() - start
                if repeat:
                    least[place] = min(least[place], seconds)
        totals = [total + seconds for total, seconds in zip(totals, least, strict=True)]
    return totals[0], totals[1]


# -- keeping -----------------------------------------------------------------------------------


def _kept_at() -> Path:
    """Where the choice for this kind of processor and this torch is kept."""
    # What the libraries take from the processor can be bounded from outside.
    bounds = (os.environ.get(n, "") for n in ("MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA"))
    kind = "\n".join([processor().label, torch.__version__, *bounds])
    digest = hashlib.sha256(kind.encode()).hexdigest()[:16]
    return Path(platformdirs.user_cache_dir("ffjord-bench")) / "products" / digest


def _read(path: Path) -> Products | None:
    """What a file holds; None where there is none, or nothing that can be read."""
    try:
        return Products.parse(path.read_text())
    except (OSError, UnicodeDecodeError, InputError):
        return None


def _keep(path: Path, found: Products) -> Products:
    """Keep a choice, unless another process was first: then that one's holds, for both."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as file:
            file.write(found.setting)
        temporary = Path(file.name)
        try:
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
            kept = _read(path)
            if kept is None:
                temporary.replace(path)
        except OSError:
            # A file system without links.
            temporary.replace(path)
            kept = found
        finally:
            temporary.unlink(missing_ok=True)
    except OSError:
        # Nothing can be written there: each process measures for itself.
        return found
    return kept or found
