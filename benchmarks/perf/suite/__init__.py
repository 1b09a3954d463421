"""The suite that asv runs over this project's commits: ``asv run``.

asv imports this folder whole, from the working tree, for every commit that it measures; what is
measured comes from the commit's own checkout. So nothing here may assume more of a commit than the
public contracts (:func:`flows.build`, :func:`datasets.load`, matrices, measures, reports), and what
a commit does not have yet is skipped. What is timed, counted and weighed is what the commit's own
``benchmarks/measures`` say; asv repeats it and takes the times.

``time_``
    seconds; on the CPU of this process's own work, on one thread, see :func:`common.timer`.
``track_``
    counts, bytes and nats; lower is better throughout.

Each class has a ``version``: raise it when what is measured changes, and the history starts anew;
editing the source does not. Parameters are the same on every machine: ``cuda`` is skipped where
there is none.
"""

import contextlib
import importlib
import os
from pathlib import Path

import torch

import benchmarks
import datasets
import flows

# What is imported must be what asv is measuring, and not some installed copy.
_checkout = os.environ.get("ASV_CONF_DIR")
if "ASV_ENV_DIR" in os.environ:
    _checkout = str(Path(os.environ["ASV_ENV_DIR"], "project"))
for _package in (flows, datasets, benchmarks):
    _found = Path(str(_package.__file__)).resolve()
    if _checkout and not _found.is_relative_to(Path(_checkout).resolve()):
        raise RuntimeError(
            f"{_package.__name__} comes from {_found}; {_checkout} is being measured"
        )
# Two cores are all that a small machine has; one thread is what can be compared.
torch.set_num_threads(1)
# What torch imports when it first differentiates and first makes an optimiser, and the compiled
# kernels: seconds, here once for the process that all benchmarks are forked from, not in each.
for _name in ("sympy", "torch._dynamo", "flows.continuous.kernels.warmed"):
    with contextlib.suppress(ImportError):
        importlib.import_module(_name)
