"""Every flow family, small and medium: a density, a sample, a training step, and what they take."""

from __future__ import annotations

import torch

from flows import Meter

from .common import (
    DEVICES,
    Timed,
    Tracked,
    build,
    generator,
    points,
    require_density,
    trainer,
)

FAMILIES = [
    "ffjord",
    "nice",
    "realnvp",
    "glow",
    "maf",
    "iaf",
    "rqnsf-c",
    "rqnsf-ar",
    "planar",
    "radial",
    "sylvester",
]
# Dimension to rows of a batch: small and medium.
ROWS = {2: 64, 16: 256}


class LogProb(Timed):
    """Log-density of a batch, no gradient; one noise draw where it is estimated."""

    params = (FAMILIES, list(ROWS), DEVICES)
    param_names = ("flow", "dimension", "device")

    def setup(self, flow: str, dimension: int, device: str) -> None:
        self.flow = build(flow, dimension, device).eval()
        require_density(self.flow)
        self.x = points(ROWS[dimension], dimension, device)
        self.generator = generator(device).manual_seed(0)

    def time_log_prob(self, flow: str, dimension: int, device: str) -> None:
        with torch.no_grad():
            self.flow.log_prob(self.x, generator=self.generator)


class Sample(Timed):
    """A batch of samples, no gradient."""

    params = (FAMILIES, list(ROWS), DEVICES)
    param_names = ("flow", "dimension", "device")

    def setup(self, flow: str, dimension: int, device: str) -> None:
        self.flow = build(flow, dimension, device).eval()
        self.generator = generator(device).manual_seed(0)

    def time_sample(self, flow: str, dimension: int, device: str) -> None:
        with torch.no_grad():
            self.flow.sample(ROWS[dimension], generator=self.generator)


class TrainingStep(Timed):
    """A step of the one training loop: loss, gradient, clipping, update."""

    params = (FAMILIES, list(ROWS), DEVICES)
    param_names = ("flow", "dimension", "device")

    def setup(self, flow: str, dimension: int, device: str) -> None:
        built = build(flow, dimension, device).train()
        self.trainer = trainer(built, ROWS[dimension], generator(device).manual_seed(0))
        self.x = points(ROWS[dimension], dimension, device)

    def time_training_step(self, flow: str, dimension: int, device: str) -> None:
        self.trainer.step(self.x)


class Work(Tracked):
    """Network evaluations (NFE); a training step's are those of both passes."""

    params = (FAMILIES, list(ROWS), ["log_prob", "sample", "training_step"])
    param_names = ("flow", "dimension", "action")
    unit = "evaluations"

    def setup(self, flow: str, dimension: int, action: str) -> None:
        self.flow = build(flow, dimension, "cpu")
        if action != "sample":
            require_density(self.flow)

    def track_nfe(self, flow: str, dimension: int, action: str) -> int:
        source = torch.Generator().manual_seed(0)
        x = points(ROWS[dimension], dimension, "cpu")
        with Meter() as meter, torch.set_grad_enabled(action == "training_step"):
            if action == "sample":
                self.flow.sample(len(x), generator=source)
            elif action == "log_prob":
                self.flow.log_prob(x, generator=source)
            else:
                self.flow.loss(x, generator=source).backward()
        return meter.forward + meter.backward


class Parameters(Tracked):
    """Trainable scalars of the catalog's default."""

    params = (FAMILIES, list(ROWS))
    param_names = ("flow", "dimension")
    unit = "parameters"

    def setup(self, flow: str, dimension: int) -> None:
        self.flow = build(flow, dimension, "cpu")

    def track_parameters(self, flow: str, dimension: int) -> int:
        return self.flow.parameter_count


class Memory(Tracked):
    """Peak of the tensors alive above the start, in one training step and over eight.

    What each step leaves behind shows in the second and not in the first.
    """

    params = (FAMILIES, [1, 8], DEVICES)
    param_names = ("flow", "steps", "device")
    unit = "bytes"
    dimension = 16

    def setup(self, flow: str, steps: int, device: str) -> None:
        rows = ROWS[self.dimension]
        built = build(flow, self.dimension, device).train()
        self.trainer = trainer(built, rows, generator(device).manual_seed(0))
        self.x = points(rows, self.dimension, device)
        # The first step allocates the optimiser's state and the gradients, which stay.
        self.trainer.step(self.x)

    def track_peak_memory(self, flow: str, steps: int, device: str) -> int:
        def train() -> None:
            for _ in range(steps):
                self.trainer.step(self.x)

        if device == "cpu":
            from benchmarks.measures.memory import peak_above_start

            return peak_above_start(train)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        train()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
