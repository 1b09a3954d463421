"""Conditioner networks against plain modules with the same weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import flows
from flows.activations import Activation
from flows.networks import MLP, ResidualNetwork

NONLINEARITIES: dict[Activation, nn.Module] = {
    "relu": nn.ReLU(),
    "tanh": nn.Tanh(),
    "elu": nn.ELU(),
    "silu": nn.SiLU(),
    "softplus": nn.Softplus(),
}


def linears(module: nn.Module) -> list[nn.Linear]:
    return [part for part in module.modules() if isinstance(part, nn.Linear)]


def stir(module: nn.Module) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_mlp_is_a_chain_of_linear_layers(name: Activation) -> None:
    network = MLP(3, (8, 5), 4, name).double()
    stir(network)
    first, second, last = linears(network)
    nonlinearity = NONLINEARITIES[name]
    x = torch.randn(7, 3, dtype=torch.float64)
    expected = last(nonlinearity(second(nonlinearity(first(x)))))
    torch.testing.assert_close(network(x.T), expected.T)


def test_mlp_without_hidden_layers_is_linear() -> None:
    network = MLP(3, (), 4, "relu")
    stir(network)
    x = torch.randn(7, 3)
    torch.testing.assert_close(network(x.T), network.last(x).T)


def test_residual_network_adds_its_blocks() -> None:
    network = ResidualNetwork(3, 8, 4, 2, "relu").double()
    stir(network)

    def block(value: Tensor, index: int) -> Tensor:
        inner, outer = network.inner[index], network.outer[index]
        result: Tensor = value + outer(torch.relu(inner(torch.relu(value))))
        return result

    x = torch.randn(7, 3, dtype=torch.float64)
    expected = network.last(block(block(network.first(x), 0), 1))
    torch.testing.assert_close(network(x.T), expected.T)


def test_dropout_acts_in_training_only() -> None:
    network = ResidualNetwork(3, 64, 4, 1, "relu", dropout=0.5)
    stir(network)
    x = torch.randn(3, 7)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


@pytest.mark.parametrize("network", [MLP(3, (8,), 4, "relu"), ResidualNetwork(3, 8, 4, 1, "relu")])
def test_fresh_networks_give_zero(network: nn.Module) -> None:
    assert torch.equal(network(torch.randn(3, 5)), torch.zeros(4, 5))


def test_hidden_layers_before_a_relu_start_as_he_has_them() -> None:
    """Uniform up to sqrt(6 / inputs); of n draws the largest falls short by 1 in n."""
    torch.manual_seed(0)
    for layer in linears(MLP(50, (200, 100), 4, "relu"))[:-1]:
        bound = math.sqrt(6 / layer.in_features)
        assert 0.998 * bound < layer.weight.abs().max().item() <= bound
        assert layer.weight.var().item() == pytest.approx(2 / layer.in_features, rel=0.05)


@pytest.mark.parametrize("name", [name for name in NONLINEARITIES if name != "relu"])
def test_hidden_layers_before_other_nonlinearities_start_as_torchs(name: Activation) -> None:
    for layer in linears(MLP(50, (200, 100), 4, name))[:-1]:
        bound = 1 / math.sqrt(layer.in_features)
        assert 0.998 * bound < layer.weight.abs().max().item() <= bound


def test_conditioners_of_nice_start_as_torchs() -> None:
    """Additive couplings learn worse from He's; affine ones better, splines no worse."""
    for name, scale in {"nice": 1.0, "realnvp": math.sqrt(6), "rqnsf-c": math.sqrt(6)}.items():
        (network, *_) = (m for m in flows.build(name, (100,)).modules() if isinstance(m, MLP))
        bound = scale / math.sqrt(50)
        assert 0.99 * bound < linears(network)[0].weight.abs().max().item() <= bound


def test_the_shifts_of_a_fresh_nice_have_a_gradient_on_symmetric_data() -> None:
    """A last layer of zeros would make it the identity, where symmetry leaves them none."""
    torch.manual_seed(0)
    flow = flows.build("nice", (2,)).double()
    corner = torch.rand(50, 2, dtype=torch.float64) + 0.5
    x = torch.cat([corner * torch.tensor([a, b]) for a in (-1, 1) for b in (-1, 1)])
    lasts = [network.last for network in flow.modules() if isinstance(network, MLP)]

    def slopes() -> list[float]:
        flow.zero_grad()
        flow.loss(x).backward()
        return [float(last.bias.grad.abs().max()) for last in lasts]

    assert min(slopes()) > 1e-3
    with torch.no_grad():
        for last in lasts:
            last.weight.zero_()
            last.bias.zero_()
    assert max(slopes()) < 1e-12


def test_second_moment_is_kept_through_a_deep_relu_network() -> None:
    torch.manual_seed(0)
    network = MLP(100, (200,) * 10, 1, "relu")
    value = torch.randn(1000, 100)
    moments = []
    with torch.no_grad():
        for layer in linears(network)[:-1]:
            value = layer(value)
            # What a unit is before its relu; half of it is left behind it.
            moments.append(value.square().mean().item())
            value = value.relu()
    # Weights of variance 2 / inputs keep it; biases add a little. torch's own leave 6**-9 of it.
    assert moments[0] == pytest.approx(2.0, rel=0.1)
    assert 0.6 * moments[0] < moments[-1] < 1.6 * moments[0]


@pytest.mark.parametrize("name", ["realnvp", "maf", "rqnsf-c", "rqnsf-ar"])
def test_a_fresh_flow_is_the_identity(name: str) -> None:
    """Inside its box, for splines; a flow that has seen no data scales nothing."""
    torch.manual_seed(0)
    flow = flows.build(name, (5,))
    x = torch.randn(20, 5).clamp(-2, 2)
    z, log_abs_det = flow.encode(x)
    torch.testing.assert_close(z, x, atol=1e-5, rtol=0)
    torch.testing.assert_close(log_abs_det, torch.zeros(20), atol=1e-4, rtol=0)
