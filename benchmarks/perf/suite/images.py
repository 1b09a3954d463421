"""The families that model images, small and medium: as :mod:`families`."""

from __future__ import annotations

from . import families
from .common import DEVICES

FAMILIES = ["ffjord-image", "realnvp-image", "glow-image"]
SIDES = [4, 8]


class _Images:
    params = (FAMILIES, SIDES, DEVICES)
    param_names = ("flow", "side", "device")
    # A solve over images takes a good part of a second.
    repeat = (3, 20, 0.3)
    min_run_count = 2

    @staticmethod
    def of_size(flow: str, side: int) -> tuple[str, tuple[int, ...], int]:
        return flow, (1, side, side), 4


class LogProb(_Images, families.LogProb):
    """Log-density of a batch of images, no gradient; one noise draw where it is estimated."""


class Sample(_Images, families.Sample):
    """A batch of images sampled, no gradient."""


class TrainingStep(_Images, families.TrainingStep):
    """A step of the one training loop on images: batch, loss, gradient, clipping, update."""


class Work(_Images, families.Work):
    """Network evaluations (NFE) on images: a density, a sample, both passes of a training step."""

    params = (FAMILIES, SIDES, families.EVALUATIONS)
    param_names = ("flow", "side", "evaluations")
