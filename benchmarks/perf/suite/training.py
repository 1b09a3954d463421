"""How well each family does after a fixed small budget: what a fast mistake would spoil."""

from __future__ import annotations

import torch

import datasets
import flows

from .common import Tracked, matrix, subject
from .families import FAMILIES

TRAINABLE = [name for name in FAMILIES if name not in ("planar", "radial", "sylvester")]
BUDGET = """
name = "perf"
seeds = [0]
[budget]
steps = 60
batch_size = 128
learning_rate = 5e-3
validate_every = 60
validation_rows = 500
[[study]]
flows = ["realnvp"]
datasets = ["8gaussians"]
"""


class SmallBudget(Tracked):
    """NLL of the test split after sixty steps on eight Gaussians."""

    version = "1"
    params = (TRAINABLE,)
    param_names = ("flow",)
    unit = "nats"

    def setup(self, flow: str) -> None:
        subject(flow, (2,), 64)

    def track_nll(self, flow: str) -> float:
        from benchmarks.train import evaluate, train

        data = datasets.load("8gaussians")
        torch.manual_seed(0)
        model = flows.build(flow, (2,))
        model.initialize(torch.as_tensor(data.train[:1024]))
        train(model, data, matrix(BUDGET).cells[0].budget, seed=0, on_row=lambda row: None)
        _, log_prob = evaluate(model, data, "test", rows=1000, exact=True)
        return -float(log_prob.mean())
