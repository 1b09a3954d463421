"""Every flow family, small and medium: a density, a sample, a training step, and what they take."""

from __future__ import annotations

from typing import Any

import torch

from .common import DEVICES, Timed, Tracked, action, subject

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
    "ffjord-fm",
]
# Dimension to rows of a batch: small and medium.
ROWS = {2: 64, 16: 256}
# Columns of the measure of work.
EVALUATIONS = ["nfe_log_prob", "nfe_sample", "nfe_train_forward", "nfe_train_backward"]


def of_size(flow: str, dimension: int) -> tuple[str, tuple[int, ...], int]:
    """Name, event shape and rows of a batch, as :func:`common.subject` takes them."""
    return flow, (dimension,), ROWS[dimension]


class _EachFamily(Timed):
    params: Any = (FAMILIES, list(ROWS), DEVICES)
    param_names: Any = ("flow", "dimension", "device")
    of_size = staticmethod(of_size)
    stem: str

    def setup(self, flow: str, size: int, device: str) -> None:
        self.run = action(self.stem, *self.of_size(flow, size), device)


class LogProb(_EachFamily):
    """Log-density of a batch, no gradient; one noise draw where it is estimated."""

    stem = "log_prob"

    def time_log_prob(self, *_: object) -> None:
        self.run()


class Sample(_EachFamily):
    """A batch of samples, no gradient."""

    stem = "sample"

    def time_sample(self, *_: object) -> None:
        self.run()


class TrainingStep(_EachFamily):
    """A step of the one training loop: batch, loss, gradient, clipping, update."""

    stem = "train_step"

    def time_training_step(self, *_: object) -> None:
        self.run()


class Work(Tracked):
    """Network evaluations (NFE) of a density, a sample, both passes of a training step."""

    params: Any = (FAMILIES, list(ROWS), EVALUATIONS)
    param_names: Any = ("flow", "dimension", "evaluations")
    of_size = staticmethod(of_size)
    unit = "evaluations"

    def setup(self, flow: str, size: int, column: str) -> None:
        self.subject = subject(*self.of_size(flow, size))
        if not self.subject.flow.traits.trains_on_data:
            raise NotImplementedError("the flow has no density of given data")

    def track_nfe(self, flow: str, size: int, column: str) -> float:
        from benchmarks.measures import work

        return work.measure(self.subject)[column]


class Parameters(Tracked):
    """Trainable scalars of the catalog's default."""

    version = "1"
    params = (FAMILIES, list(ROWS))
    param_names = ("flow", "dimension")
    unit = "parameters"

    def setup(self, flow: str, dimension: int) -> None:
        self.flow = subject(*of_size(flow, dimension)).flow

    def track_parameters(self, flow: str, dimension: int) -> int:
        return self.flow.parameter_count


class Memory(Tracked):
    """Peak of the tensors alive above the start, over eight training steps.

    Eight, so that what each step leaves behind adds up.
    """

    params = (FAMILIES, DEVICES)
    param_names = ("flow", "device")
    unit = "bytes"

    def setup(self, flow: str, device: str) -> None:
        self.step = action("train_step", *of_size(flow, 16), device)
        # The first step allocates the optimiser's state and the gradients, which stay.
        self.step()

    def track_peak_memory(self, flow: str, device: str) -> int:
        from benchmarks.measures.memory import peak_above_start

        # Commits whose measure knows the CPU alone take no device.
        where = [] if device == "cpu" else [torch.device(device)]
        return peak_above_start(lambda: [self.step() for _ in range(8)], *where)
