"""Conditioner networks against plain modules with the same weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from flows.dense import Activation
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
