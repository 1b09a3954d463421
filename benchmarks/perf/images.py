"""The families that model images, small and medium: a density, a sample, a training step."""

from __future__ import annotations

import torch

from flows import Meter

from .common import DEVICES, Timed, Tracked, build, generator, points, trainer

FAMILIES = ["ffjord-image", "realnvp-image", "glow-image"]
SIDES = [4, 8]
ROWS = 4


class _Images(Timed):
    params = (FAMILIES, SIDES, DEVICES)
    param_names = ("flow", "side", "device")
    # A solve over images takes a good part of a second.
    repeat = (3, 20, 0.3)
    min_run_count = 2

    def setup(self, flow: str, side: int, device: str) -> None:
        self.flow = build(flow, (1, side, side), device)
        self.x = points(ROWS, (1, side, side), device)
        self.generator = generator(device).manual_seed(0)


class LogProb(_Images):
    """Log-density of a batch of images, no gradient; one noise draw where it is estimated."""

    def time_log_prob(self, flow: str, side: int, device: str) -> None:
        with torch.no_grad():
            self.flow.eval().log_prob(self.x, generator=self.generator)


class Sample(_Images):
    """A batch of images sampled, no gradient."""

    def time_sample(self, flow: str, side: int, device: str) -> None:
        with torch.no_grad():
            self.flow.eval().sample(ROWS, generator=self.generator)


class TrainingStep(_Images):
    """A step of the one training loop on images: loss, gradient, clipping, update."""

    def setup(self, flow: str, side: int, device: str) -> None:
        super().setup(flow, side, device)
        self.trainer = trainer(self.flow.train(), ROWS, self.generator)

    def time_training_step(self, flow: str, side: int, device: str) -> None:
        self.trainer.step(self.x)


class Work(Tracked):
    """Network evaluations (NFE) of a training step on images, both passes."""

    params = (FAMILIES, SIDES)
    param_names = ("flow", "side")
    unit = "evaluations"

    def setup(self, flow: str, side: int) -> None:
        self.flow = build(flow, (1, side, side), "cpu")

    def track_nfe(self, flow: str, side: int) -> int:
        source = torch.Generator().manual_seed(0)
        with Meter() as meter:
            self.flow.loss(points(ROWS, (1, side, side), "cpu"), generator=source).backward()
        return meter.forward + meter.backward
