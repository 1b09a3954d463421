"""How well each family does after a fixed small budget: what a fast mistake would spoil."""

from __future__ import annotations

import torch

import datasets
import flows

from .common import Tracked, build
from .families import FAMILIES

TRAINABLE = [name for name in FAMILIES if name not in ("planar", "radial", "sylvester")]


class SmallBudget(Tracked):
    """NLL of the test split after sixty steps on eight Gaussians."""

    params = (TRAINABLE,)
    param_names = ("flow",)
    unit = "nats"

    def setup(self, flow: str) -> None:
        build(flow, 2, "cpu")
        try:
            import benchmarks.train  # noqa: F401
        except ImportError as error:
            raise NotImplementedError("this commit has no trainer") from error

    def track_nll(self, flow: str) -> float:
        from benchmarks.cell import Budget
        from benchmarks.train import evaluate, train

        data = datasets.load("8gaussians")
        torch.manual_seed(0)
        model = flows.build(flow, (2,))
        model.initialize(torch.as_tensor(data.train[:1024]))
        budget = Budget(  # type: ignore[call-arg]
            steps=60, batch_size=128, learning_rate=5e-3, validate_every=60, validation_rows=500
        )
        train(model, data, budget, seed=0, on_row=lambda row: None)
        _, log_prob = evaluate(model, data, "test", rows=1000, exact=True)
        return -float(log_prob.mean())
