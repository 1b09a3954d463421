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
    """Peak of the tensors alive above the start, over eight training steps.

    Eight, so that what each step leaves behind adds up.
    """

    params = (FAMILIES, DEVICES)
    param_names = ("flow", "device")
    unit = "bytes"
    dimension = 16
    steps = 8

    def setup(self, flow: str, device: str) -> None:
        try:
            from benchmarks.measures.memory import peak_above_start
        except ImportError as error:
            raise NotImplementedError("this commit does not measure memory") from error
        self.peak_above_start = peak_above_start
        rows = ROWS[self.dimension]
        built = build(flow, self.dimension, device).train()
        self.trainer = trainer(built, rows, generator(device).manual_seed(0))
        self.x = points(rows, self.dimension, device)
        # The first step allocates the optimiser's state and the gradients, which stay.
        self.trainer.step(self.x)

    def track_peak_memory(self, flow: str, device: str) -> int:
        if device == "cpu":
            return self.peak_above_start(self.train)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        self.train()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def train(self) -> None:
        for _ in range(self.steps):
            self.trainer.step(self.x)
