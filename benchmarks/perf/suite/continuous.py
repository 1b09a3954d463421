"""FFJORD alone, against dimension and bottleneck width: its solves, its trace estimators."""

from __future__ import annotations

import torch

from .common import DEVICES, Timed, Tracked, action, subject

DIMENSIONS = [2, 32]
# Width of the narrowest layer of the dynamics; None for dynamics without a bottleneck.
BOTTLENECKS = [None, 8]
ROWS = 128


class _Solve(Timed):
    params = (DIMENSIONS, BOTTLENECKS, DEVICES)
    param_names = ("dimension", "bottleneck", "device")

    def setup(self, dimension: int, bottleneck: int | None, device: str) -> None:
        found = subject("ffjord", (dimension,), ROWS, device, bottleneck=bottleneck)
        self.flow = found.flow.train()
        self.flow.zero_grad(set_to_none=True)
        self.x = found.test_points(ROWS)
        self.generator = found.generator("solve")

    def solve(self) -> torch.Tensor:
        return self.flow.loss(self.x, generator=self.generator)


class SolveForward(_Solve):
    """One adaptive solve whose gradient will be wanted."""

    def time_forward(self, *_: object) -> None:
        self.solve()


class SolveBackward(_Solve):
    """The backward pass of one such solve; set-up runs the forward pass of each sample."""

    def setup(self, dimension: int, bottleneck: int | None, device: str) -> None:
        super().setup(dimension, bottleneck, device)
        self.loss = self.solve()

    def time_backward(self, *_: object) -> None:
        self.loss.backward()


class SolveWork(Tracked):
    """Evaluations of the dynamics (NFE) in each pass."""

    params = (DIMENSIONS, BOTTLENECKS, ["forward", "backward"])
    param_names = ("dimension", "bottleneck", "pass")
    unit = "evaluations"

    def setup(self, dimension: int, bottleneck: int | None, direction: str) -> None:
        self.subject = subject("ffjord", (dimension,), ROWS, bottleneck=bottleneck)

    def track_nfe(self, dimension: int, bottleneck: int | None, direction: str) -> float:
        from benchmarks.measures import work

        return work.measure(self.subject)[f"nfe_train_{direction}"]


class TraceEstimator(Timed):
    """Log-density by each trace, with a fixed number of solver steps, so that only it differs."""

    params = (["gaussian", "rademacher", "exact"], DIMENSIONS, BOTTLENECKS, DEVICES)
    param_names = ("trace", "dimension", "bottleneck", "device")

    def setup(self, trace: str, dimension: int, bottleneck: int | None, device: str) -> None:
        exact = trace == "exact"
        self.run = action(
            "log_prob_exact" if exact else "log_prob",
            *("ffjord", (dimension,), ROWS, device),
            bottleneck=bottleneck,
            noise="gaussian" if exact else trace,
            solver="rk4",
            steps=2,
        )

    def time_log_prob(self, *_: object) -> None:
        self.run()


class EstimatorSpread(Tracked):
    """Standard deviation over noise draws, at fixed points; root of the mean variance."""

    params = (["gaussian", "rademacher"], DIMENSIONS, BOTTLENECKS)
    param_names = ("noise", "dimension", "bottleneck")
    unit = "nats"

    def setup(self, noise: str, dimension: int, bottleneck: int | None) -> None:
        from benchmarks.measures import variance

        found = subject("ffjord", (dimension,), ROWS, bottleneck=bottleneck, noise=noise)
        self.found = variance.measure(found)

    def track_trace_standard_deviation(self, *_: object) -> float:
        return self.found["trace_std"]

    def track_log_prob_standard_deviation(self, *_: object) -> float:
        return self.found["log_prob_std"]
