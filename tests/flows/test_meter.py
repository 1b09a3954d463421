"""What one network evaluation is: one use of each weight, in however many pieces."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import flows
from flows import Meter

LAYERS = 3
DIMENSION = 12


@pytest.mark.parametrize("name", ["maf", "rqnsf-ar", "iaf"])
def test_the_sequential_direction_multiplies_no_more_than_a_pass(name: str) -> None:
    """So that it counts one evaluation a layer, where D passes would count D."""
    torch.manual_seed(0)
    hidden = {"hidden": (32,), "residual_blocks": 1} if name == "rqnsf-ar" else {"hidden": (32, 32)}
    flow = flows.build(name, (DIMENSION,), layers=LAYERS, **hidden).eval()
    x = torch.zeros(50, DIMENSION)
    work = []
    for call in (flow.encode, flow.decode):
        with FlopCounterMode(display=False) as counter, Meter() as meter, torch.no_grad():
            call(x)
        assert meter.forward == LAYERS
        work.append(counter.get_total_flops())
    in_one_pass, sequential = sorted(work, reverse=True)
    assert (work[0] > work[1]) == (name != "iaf")
    # Of the one pass, which multiplies with the mask's zeros too, about half.
    assert 0.3 * in_one_pass < sequential <= in_one_pass
