"""Every entry of the catalog as it is, at the shape of the events that it is named for.

The battery of test_contract.py shrinks the networks; here nothing is shrunk but the batch. All
entries fit, the largest (glow-cifar10, 44 million weights) too: within 1 GiB and seconds. What no
test does is train the large ones at the batch sizes and lengths of their papers.
"""

from __future__ import annotations

import pytest
import torch

import flows
from flows.continuous.image import ImageFFJORD
from flows.registry import ENTRIES

SHAPES: dict[str, tuple[int, ...]] = {
    "toy": (2,),
    "power": (6,),
    "gas": (8,),
    "hepmass": (21,),
    "miniboone": (43,),
    "bsds300": (63,),
    "mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "image": (3, 32, 32),
}
USUAL = (6,)
"""Of entries that are named for no data set: that of POWER."""

BATCH = 2


def event_shape(name: str) -> tuple[int, ...]:
    return next((SHAPES[word] for word in name.split("-") if word in SHAPES), USUAL)


OWN = [name for name in ENTRIES if "/" not in name]


@pytest.mark.parametrize("name", OWN)
def test_density_and_samples_at_full_size(name: str) -> None:
    torch.manual_seed(0)
    shape = event_shape(name)
    flow = flows.build(name, shape).eval()

    def source() -> torch.Generator:
        return torch.Generator().manual_seed(1)

    with torch.no_grad():
        x = torch.randn(BATCH, *shape, generator=source())
        if flow.traits.density_passes != "none":
            density = flow.log_prob(x, generator=source())
            assert density.shape == (BATCH,)
            assert density.isfinite().all()
        if flow.traits.sample_passes != "none":
            samples = flow.sample(BATCH, generator=source())
            assert samples.shape == x.shape
            assert samples.isfinite().all()
        if "none" not in (flow.traits.density_passes, flow.traits.sample_passes):
            latent, _ = flow.encode(samples, generator=source())
            drawn = flow.base.sample(BATCH, generator=source())
            torch.testing.assert_close(latent, drawn, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize(
    ("name", "scales"),
    [
        ("ffjord-mnist", 1),
        ("ffjord-mnist-multiscale", 3),
        ("ffjord-cifar10", 1),
        ("ffjord-cifar10-multiscale", 4),
    ],
)
def test_scales_of_the_image_presets(name: str, scales: int) -> None:
    """28 halves twice and 32 three times before a side falls below 4."""
    flow = flows.build(name, event_shape(name))
    assert isinstance(flow, ImageFFJORD)
    assert flow.scales == scales
    # Two blocks at each place: before and after each squeeze, and at the last scale.
    assert len(flow.groups) == 2 * scales - 1
