"""FFJORD alone, against dimension and bottleneck width: its solves, its trace estimators."""

from __future__ import annotations

import torch

from flows import Meter

from .common import DEVICES, Timed, Tracked, build, generator, points

DIMENSIONS = [2, 32]
# Width of the narrowest layer of the dynamics; None for dynamics without a bottleneck.
BOTTLENECKS = [None, 8]
ROWS = 128


class _Solve(Timed):
    params = (DIMENSIONS, BOTTLENECKS, DEVICES)
    param_names = ("dimension", "bottleneck", "device")

    def setup(self, dimension: int, bottleneck: int | None, device: str) -> None:
        self.flow = build("ffjord", dimension, device, bottleneck=bottleneck).train()
        self.flow.zero_grad(set_to_none=True)
        self.x = points(ROWS, dimension, device)
        self.generator = generator(device).manual_seed(0)


class SolveForward(_Solve):
    """One adaptive solve whose gradient will be wanted."""

    def time_forward(self, dimension: int, bottleneck: int | None, device: str) -> None:
        self.flow.loss(self.x, generator=self.generator)


class SolveBackward(_Solve):
    """The backward pass of one such solve; set-up runs the forward pass of each sample."""

    def setup(self, dimension: int, bottleneck: int | None, device: str) -> None:
        super().setup(dimension, bottleneck, device)
        self.loss = self.flow.loss(self.x, generator=self.generator)

    def time_backward(self, dimension: int, bottleneck: int | None, device: str) -> None:
        self.loss.backward()


class SolveWork(Tracked):
    """Evaluations of the dynamics (NFE) in each pass."""

    params = (DIMENSIONS, BOTTLENECKS, ["forward", "backward"])
    param_names = ("dimension", "bottleneck", "pass")
    unit = "evaluations"

    def setup(self, dimension: int, bottleneck: int | None, direction: str) -> None:
        self.flow = build("ffjord", dimension, "cpu", bottleneck=bottleneck)

    def track_nfe(self, dimension: int, bottleneck: int | None, direction: str) -> int:
        source = torch.Generator().manual_seed(0)
        with Meter() as meter:
            self.flow.loss(points(ROWS, dimension, "cpu"), generator=source).backward()
        return meter.forward if direction == "forward" else meter.backward


class TraceEstimator(Timed):
    """Log-density by each trace, with a fixed number of solver steps, so that only it differs."""

    params = (["gaussian", "rademacher", "exact"], DIMENSIONS, BOTTLENECKS, DEVICES)
    param_names = ("trace", "dimension", "bottleneck", "device")

    def setup(self, trace: str, dimension: int, bottleneck: int | None, device: str) -> None:
        noise = "gaussian" if trace == "exact" else trace
        self.flow = build(
            "ffjord", dimension, device, bottleneck=bottleneck, noise=noise, solver="rk4", steps=2
        ).eval()
        self.x = points(ROWS, dimension, device)
        self.generator = generator(device).manual_seed(0)

    def time_log_prob(
        self, trace: str, dimension: int, bottleneck: int | None, device: str
    ) -> None:
        with torch.no_grad():
            self.flow.log_prob(self.x, exact=trace == "exact", generator=self.generator)


class EstimatorSpread(Tracked):
    """Standard deviation over noise draws, at fixed points; root of the mean variance."""

    params = (["gaussian", "rademacher"], DIMENSIONS, BOTTLENECKS)
    param_names = ("noise", "dimension", "bottleneck")
    unit = "nats"
    draws = 64

    def setup(self, noise: str, dimension: int, bottleneck: int | None) -> None:
        self.flow = build("ffjord", dimension, "cpu", bottleneck=bottleneck, noise=noise).eval()
        self.x = points(64, dimension, "cpu")
        self.generator = torch.Generator().manual_seed(0)

    def track_trace_standard_deviation(
        self, noise: str, dimension: int, bottleneck: int | None
    ) -> float:
        found = self.flow.trace_estimates(self.x, draws=self.draws, generator=self.generator)
        return float(found.double().var(0).mean().sqrt())

    def track_log_prob_standard_deviation(
        self, noise: str, dimension: int, bottleneck: int | None
    ) -> float:
        repeated = self.x.repeat(self.draws, 1)
        with torch.no_grad():
            found = self.flow.log_prob(repeated, generator=self.generator)
        return float(found.double().reshape(self.draws, -1).var(0).mean().sqrt())
