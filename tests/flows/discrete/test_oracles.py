"""With weights copied over, other libraries' densities are ours, where the libraries are right."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import flows
from flows.discrete.layers.autoregressive import MADE, Autoregressive, MaskedLinear
from flows.discrete.layers.coupling import Couplings
from flows.discrete.layers.elementwise import Elementwise
from flows.discrete.layers.spline import RationalQuadratic
from flows.networks import MLP

DTYPES = [(torch.float32, 1e-5), (torch.float64, 1e-10)]
precisions = pytest.mark.parametrize(("dtype", "tolerance"), DTYPES, ids=["float32", "float64"])
HIDDEN = (24, 24)


def stirred(module: nn.Module, scale: float = 0.3, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator).to(parameter)


def draws(*shape: int, dtype: torch.dtype, seed: int = 1, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def layers_of(network: nn.Module) -> list[Any]:
    """Linear layers in their order; zuko has a class of its own for them."""
    return [module for module in network.modules() if type(module).__name__ == "Linear"]


def copy_layers(source: nn.Module, target: nn.Module) -> None:
    with torch.no_grad():
        for one, other in zip(layers_of(source), layers_of(target), strict=True):
            other.weight.copy_(one.weight)
            other.bias.copy_(one.bias)


def assert_close(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=10 * tolerance)


@precisions
@pytest.mark.parametrize("dimension", [2, 5, 6])
def test_realnvp_is_nflows(dimension: int, dtype: torch.dtype, tolerance: float) -> None:
    """The coupling of nflows, mended to expand as well as contract, is ours."""
    from nflows.nn import nets
    from nflows.transforms import AffineCouplingTransform

    from flows.peers.base import IgnoreContext

    bound = 5.0

    class Mended(AffineCouplingTransform):  # type: ignore[misc]
        def _scale_and_shift(self, transform_params: Tensor) -> tuple[Tensor, Tensor]:
            shift, raw = transform_params.split(self.num_transform_features, 1)
            return (bound * torch.tanh(raw / bound)).exp(), shift

    torch.manual_seed(0)
    ours = flows.build("realnvp", (dimension,), layers=4, hidden=HIDDEN, log_scale_bound=bound)
    # By little: the hidden layers start large, and the squares of large latents are all rounding.
    stirred(ours, 0.1)
    ours.to(dtype)
    x = draws(20, dimension, dtype=dtype)
    expected_z, expected = x, torch.zeros(20, dtype=dtype)
    couplings = next(module for module in ours.modules() if isinstance(module, Couplings))
    for layer, coupling in enumerate(couplings.networks):
        mask = torch.where((torch.arange(dimension) + layer) % 2 == 0, -1.0, 1.0)
        theirs = Mended(
            mask, lambda i, o: IgnoreContext(nets.MLP([i], [o], list(HIDDEN)), HIDDEN[-1])
        ).to(dtype)
        copy_layers(coupling, theirs)
        expected_z, change = theirs(expected_z)
        expected = expected + change
    expected = expected + ours.base.log_prob(expected_z)
    assert_close(ours.log_prob(x), expected, tolerance)


class SoftClipped(Elementwise):
    """zuko's MonotonicAffineTransform: ``z = x exp(s) + t``, ``s = a / (1 + |a / log 1e-3|)``."""

    parameter_count = 2

    def encode(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        shift, raw = parameters.unbind(0)
        log_scale = raw / (1 + (raw / math.log(1e-3)).abs())
        return x * log_scale.exp() + shift, log_scale

    def decode(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        shift, raw = parameters.unbind(0)
        log_scale = raw / (1 + (raw / math.log(1e-3)).abs())
        return (z - shift) * (-log_scale).exp(), -log_scale


@precisions
@pytest.mark.parametrize("dimension", [2, 5, 6])
def test_couplings_are_zukos(dimension: int, dtype: torch.dtype, tolerance: float) -> None:
    pytest.importorskip("zuko")
    layers = 3
    peer = flows.build("zuko/realnvp", (dimension,), layers=layers, hidden=HIDDEN)
    stirred(peer)
    peer.to(dtype)
    ours = Couplings(
        dimension,
        layers,
        lambda inputs, outputs: MLP(inputs, HIDDEN, outputs, "relu"),
        SoftClipped(),
        interleaved=True,
    ).to(dtype)
    theirs: Any = peer.peer
    for coupling, transform in zip(ours.networks, theirs.transform.transforms, strict=True):
        copy_layers(transform, coupling)
        last = layers_of(coupling)[-1]
        with torch.no_grad():
            # From (feature, parameter) to (parameter, feature).
            for value in (last.weight, last.bias):
                value.copy_(value.unflatten(0, (-1, 2)).transpose(0, 1).flatten(0, 1).clone())
    x = draws(20, dimension, dtype=dtype)
    z, change = ours(x.T.contiguous(), None)
    assert_close(ours_log_prob(z, change), peer.log_prob(x), tolerance)


def ours_log_prob(z: Tensor, change: Tensor) -> Tensor:
    return change - 0.5 * z.square().sum(0) - 0.5 * len(z) * math.log(2 * math.pi)


class NflowsAffine(Elementwise):
    """nflows' masked affine: ``z = x (softplus(a) + 1e-3) + t``."""

    parameter_count = 2

    def _scale(self, raw: Tensor) -> Tensor:
        return nn.functional.softplus(raw) + 1e-3

    def encode(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        raw, shift = parameters.unbind(0)
        scale = self._scale(raw)
        return x * scale + shift, scale.log()

    def decode(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        raw, shift = parameters.unbind(0)
        scale = self._scale(raw)
        return (z - shift) / scale, -scale.log()


def copy_made(theirs: nn.Module, ours: MADE, parameter_count: int) -> None:
    """Copy a MADE of nflows; its hidden units are not sorted by degree, ours are."""
    order = None
    linears: list[Any] = [theirs.initial_layer]
    linears += [block.linear for block in theirs.blocks]  # type: ignore[union-attr]
    targets = [layer for layer in ours.hidden if isinstance(layer, MaskedLinear)]
    with torch.no_grad():
        for source, target in zip(linears, targets, strict=True):
            by_degree = source.degrees.argsort(stable=True)
            weight = source.weight[by_degree]
            mask = source.mask[by_degree]
            if order is not None:
                weight, mask = weight[:, order], mask[:, order]
            assert torch.equal(mask.bool(), target.mask.bool())
            target.weight.copy_(weight)
            target.bias.copy_(source.bias[by_degree])
            order = by_degree
        last: Any = theirs.final_layer
        # From (feature, parameter) to (parameter, feature).
        rows = torch.arange(len(last.bias)).unflatten(0, (-1, parameter_count)).T.flatten()
        assert torch.equal(last.mask[rows][:, order].bool(), ours.last.mask.bool())
        ours.last.weight.copy_(last.weight[rows][:, order])
        ours.last.bias.copy_(last.bias[rows])


@precisions
@pytest.mark.parametrize("dimension", [2, 4, 7])
def test_autoregressive_layer_is_nflows(
    dimension: int, dtype: torch.dtype, tolerance: float
) -> None:
    from nflows.transforms import MaskedAffineAutoregressiveTransform

    theirs = MaskedAffineAutoregressiveTransform(
        dimension, HIDDEN[0], num_blocks=len(HIDDEN) - 1, use_residual_blocks=False
    )
    stirred(theirs)
    ours = MADE(dimension, 0, HIDDEN, 2, "relu")
    copy_made(theirs.autoregressive_net, ours, 2)
    layer = Autoregressive(ours, NflowsAffine()).to(dtype)
    theirs.to(dtype)
    x = draws(20, dimension, dtype=dtype)
    z, change = layer(x.T.contiguous(), None)
    expected, expected_change = theirs(x)
    assert_close(z.T, expected, tolerance)
    assert_close(change, expected_change, tolerance)
    with torch.no_grad():
        back, change = layer.inverse(z, None)
        expected, expected_change = theirs.inverse(z.T)
    assert_close(back.T, expected, 20 * tolerance)
    assert_close(change, expected_change, 20 * tolerance)


@precisions
@pytest.mark.parametrize("dimension", [3, 4])
def test_autoregressive_spline_is_nflows(
    dimension: int, dtype: torch.dtype, tolerance: float
) -> None:
    from nflows.transforms import MaskedPiecewiseRationalQuadraticAutoregressiveTransform

    bins, bound = 5, 3.0
    theirs = MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
        dimension,
        HIDDEN[0],
        num_bins=bins,
        tails="linear",
        tail_bound=bound,
        num_blocks=len(HIDDEN) - 1,
        use_residual_blocks=False,
    )
    stirred(theirs)
    theirs.to(dtype)
    spline = RationalQuadratic(bins, bound)
    ours = MADE(dimension, 0, HIDDEN, spline.parameter_count, "relu").to(dtype)
    copy_made(theirs.autoregressive_net, ours, spline.parameter_count)
    with torch.no_grad():
        ours.last.bias.unflatten(0, (-1, dimension))[2 * bins :] -= spline._offset
    layer = Autoregressive(ours, spline)
    x = draws(20, dimension, dtype=dtype, scale=1.5)
    z, change = layer(x.T.contiguous(), None)
    expected, expected_change = theirs(x)
    assert_close(z.T, expected, tolerance)
    assert_close(change, expected_change, 10 * tolerance)


def spline_parameters(bins: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Widths, heights and derivatives of 200 numbers, parameters last as the libraries have it."""
    parameters = draws(200, 3 * bins - 1, dtype=dtype, seed=3)
    widths, heights, derivatives = parameters.split((bins, bins, bins - 1), 1)
    return widths, heights, derivatives


@precisions
@pytest.mark.parametrize("library", ["nflows", "normflows"])
@pytest.mark.parametrize("inverse", [False, True])
def test_spline_is_the_libraries(
    library: str, inverse: bool, dtype: torch.dtype, tolerance: float
) -> None:
    pytest.importorskip(library)
    if library == "nflows":
        from nflows.transforms.splines import unconstrained_rational_quadratic_spline as theirs
    else:
        from normflows.utils.splines import (
            unconstrained_rational_quadratic_spline as theirs,
        )
    bins, bound = 6, 3.0
    spline = RationalQuadratic(bins, bound)
    widths, heights, derivatives = spline_parameters(bins, dtype)
    x = draws(200, dtype=dtype, scale=2.0)
    expected, expected_change = theirs(
        x, widths, heights, derivatives, inverse=inverse, tails="linear", tail_bound=bound
    )
    ours = torch.cat((widths, heights, derivatives - spline._offset), 1).T.contiguous()
    z, change = (spline.decode if inverse else spline.encode)(x, ours)
    assert change is not None
    assert_close(z, expected, 10 * tolerance)
    assert_close(change, expected_change, 30 * tolerance)


@precisions
def test_spline_is_zukos(dtype: torch.dtype, tolerance: float) -> None:
    """Zuko squeezes the logits, and has neither a least width nor a least derivative."""
    pytest.importorskip("zuko")
    flows.build("zuko/maf", (2,))  # imports zuko, and leaves torch as it was
    from zuko.transforms import MonotonicRQSTransform

    bins, bound = 6, 3.0
    spline = RationalQuadratic(bins, bound, smallest=0.0)
    widths, heights, derivatives = spline_parameters(bins, dtype)
    x = draws(200, dtype=dtype, scale=2.0)
    expected, expected_change = MonotonicRQSTransform(
        widths, heights, derivatives, bound=bound
    ).call_and_ladj(x)

    def squeezed(raw: Tensor, factor: float) -> Tensor:
        return raw / (1 + (factor * raw / math.log(1e-3)).abs())

    slopes = squeezed(derivatives, 1).exp()
    ours = torch.cat(
        (squeezed(widths, 2), squeezed(heights, 2), slopes.expm1().log() - spline._offset), 1
    )
    z, change = spline.encode(x, ours.T.contiguous())
    assert change is not None
    assert_close(z, expected, 10 * tolerance)
    assert_close(change, expected_change, 30 * tolerance)
