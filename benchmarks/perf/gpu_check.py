"""What there is to prove on a GPU, in under nine minutes: ``make gpu-check``.

Each part is a process of its own, with a limit, and leaves ``<part>.json`` in the output folder; a
part whose record is there is not run again. Without a CUDA device only a dry run is possible: every
part at tiny sizes on the CPU, where tensors control the solves and no graph is captured.

==============  ===============================================================================
tests           the tests that concern CUDA
waits           training steps of every family in which no operation may wait for the device
graphs          steps decided by the host, by tensors, replayed as graphs, and by the kernel: time,
                agreement, NFE, peak memory, and the floors of launches and of products
backends        the study of that name, beside torchdiffeq's adjoint, for toy, POWER, MINIBOONE
two-cells       two cells at once on one device, beside the same one after the other
==============  ===============================================================================
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.environment import describe_environment
from benchmarks.measures.machine import matmul_flops_per_second
from benchmarks.measures.memory import peak_above_start
from benchmarks.measures.ratio import MatmulFlops
from benchmarks.measures.subject import Subject
from benchmarks.measures.time import actions, clock
from benchmarks.perf.suite import common, families, images
from benchmarks.train import Trainer
from flows import Meter
from flows.continuous import kernels
from flows.continuous.ode import on_device, recorded
from flows.continuous.transform import ContinuousTransform

ROOT = Path(__file__).resolve().parents[2]

Record = dict[str, Any]


@dataclass(frozen=True)
class Check:
    """How a part is to run.

    Attributes:
        out: folder of the records.
        dry: whether on the CPU, at tiny sizes.
        seconds: of the part; what does not fit is left out, and its record says so.
        begun: when, by the clock of :func:`time.monotonic`.
    """

    out: Path
    dry: bool
    seconds: float
    begun: float

    @property
    def device(self) -> torch.device:
        """Where the flows are."""
        return torch.device("cpu" if self.dry else "cuda")

    @property
    def left(self) -> float:
        """Seconds."""
        return self.seconds - (time.monotonic() - self.begun)

    def run(self, *command: str, **environment: str) -> Record:
        """A command's exit code, seconds and last lines; it is ended where no time is left."""
        start = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": _path(), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # It is ended with all that it has started.
            start_new_session=True,
        )
        code: int | None
        try:
            output, _ = process.communicate(timeout=max(1.0, self.left - 5))
            code = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            (output, _), code = process.communicate(), None
        seconds = time.monotonic() - start
        return {"code": code, "seconds": seconds, "output": output.splitlines()[-40:]}


def _path() -> str:
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


# -- the parts ------------------------------------------------------------------------------------

TESTS = (
    "tests/flows/continuous/ode/test_on_device.py",
    "tests/flows/continuous/ode/test_compiled_steps.py",
    "tests/flows/continuous/test_cuda_kernel.py",
    "tests/benchmarks/test_train.py",
    "tests/datasets/test_preprocessing.py",
)

# Of the kernels' tests the official networks': each variant takes seconds to compile.
CONCERN = "test_on_device or on_cuda or on_the_device or synchronise or official or not_used"


def tests(check: Check) -> Record:
    """The tests that concern CUDA; in a dry run they are only collected."""
    more = ["--collect-only"] if check.dry else ["-k", CONCERN]
    # By which the tests' deterministic algorithms allow matrix products.
    found = check.run("-m", "pytest", "-q", *TESTS, *more, CUBLAS_WORKSPACE_CONFIG=":4096:8")
    return {**found, "passed": found["code"] == 0}


def waits(check: Check) -> Record:
    """Training steps of every family under ``set_sync_debug_mode("error")``."""
    cases = [families.of_size(name, 2) for name in families.FAMILIES]
    cases += [(name, (1, 8, 8), 4) for name in images.FAMILIES]
    found: Record = {}
    for name, event_shape, rows in cases:
        if check.left < 2:
            found[name] = "no time left"
            continue
        try:
            subject = common.subject(name, event_shape, rows, check.device.type)
            if not subject.flow.traits.trains_on_data:
                found[name] = "is not trained on data"
                continue
            found[name] = _waits(subject)
        except RuntimeError as error:
            found[name] = str(error).splitlines()[0]
    fine = ("none", "is not trained on data")
    return {"waits": found, "passed": all(words in fine for words in found.values())}


def _waits(subject: Subject) -> str:
    flow, x = subject.flow.train(), subject.test_points(subject.cell.budget.batch_size)
    trainer = Trainer(flow, subject.cell.budget, subject.generator("waits"))
    trainer.set_learning_rate(1e-12)
    # What later steps have: handles, the optimiser's state, graphs of every shape.
    for _ in range(4):
        trainer.step(x)
    with _no_waits(x.device):
        for _ in range(2):
            trainer.step(x)
    return "none" if not int(trainer.skipped) else "a step was skipped"


@contextlib.contextmanager
def _no_waits(device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


CASES = {
    "toy": ("ffjord-toy", (2,), 512, {"trace": "hutchinson"}),
    "power": ("ffjord-power", (6,), 1000, {}),
    "miniboone": ("ffjord-miniboone", (43,), 1000, {}),
}
TINY: dict[str, Any] = {"hidden": (8, 8), "blocks": 2, "atol": 1e-3, "rtol": 1e-3}


@contextlib.contextmanager
def _way(of_tensors: bool, graphs: bool, kernel: bool) -> Iterator[None]:
    """How solves are to be done."""
    before = os.environ.get(kernels.VARIABLE)
    os.environ[kernels.VARIABLE] = "on" if kernel else "off"
    with on_device.chosen(of_tensors), contextlib.ExitStack() as stack:
        if not graphs:
            stack.enter_context(recorded.using(None))
        try:
            yield
        finally:
            if before is None:
                del os.environ[kernels.VARIABLE]
            else:
                os.environ[kernels.VARIABLE] = before


WAYS: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    "host": lambda: _way(False, False, False),
    "tensors": lambda: _way(True, False, False),
    "graphs": lambda: _way(True, True, False),
    "graphs and kernel": lambda: _way(True, True, True),
}
"""The first is the truth."""


def graphs(check: Check) -> Record:
    """Time, agreement and memory of the ways to solve, and what they could be at best."""
    found: Record = {"launch_seconds": _launch_seconds(check.device)}
    for name, (system, event_shape, rows, options) in CASES.items():
        if check.left < 10:
            found[name] = "no time left"
            continue
        more = {**options, **TINY} if check.dry else options
        subject = common.subject(
            system, event_shape, 32 if check.dry else rows, check.device.type, **more
        )
        found[name] = _compared(subject, check)
        for stem in ("train_step", "log_prob"):
            launches = found[name][f"{stem}_launches"]
            for how, seconds in found["launch_seconds"].items():
                found[name][f"{stem}_launches_{how}_seconds"] = launches * seconds
    found["refused"] = sorted(set(recorded.refused.values()))
    if kernels.triton_is_there():
        from flows.continuous.kernels import on_cuda

        found["kernel refused"] = sorted(set(on_cuda.refused.values()))
    compared = [found[name] for name in CASES if isinstance(found[name], dict)]
    agree = all(way["agrees"] for case in compared for way in case["ways"].values())
    whole = len(compared) == len(CASES) and not found["refused"]
    return {**found, "passed": agree and whole and not found.get("kernel refused")}


def _compared(subject: Subject, check: Check) -> Record:
    device = subject.device
    points = subject.test_points(subject.cell.budget.batch_size)
    works = actions(subject)
    ways: dict[str, Record] = {}
    truth: torch.Tensor | None = None
    for name, way in WAYS.items():
        # Whatever a way keeps of a solve before is to be its own.
        for block in subject.flow.modules():
            if isinstance(block, ContinuousTransform):
                block.fitting_step = None
        with way():
            start = time.monotonic()
            for work in works.values():
                # A graph is captured the second time, and replayed the third.
                for _ in range(3):
                    work()
            with Meter() as meter, torch.no_grad():
                noise = subject.generator("graphs")
                density = subject.flow.eval().log_prob(points, generator=noise)
            ways[name] = {"warm_up_seconds": time.monotonic() - start, "nfe": meter.forward}
            ways[name]["train_step_peak_bytes"] = peak_above_start(works["train_step"], device)
        if truth is None:
            truth = density
        off = float((density - truth).abs().max() / truth.abs().max())
        ways[name] |= {"relative_difference": off, "agrees": off < 1e-3}
    seconds: dict[tuple[str, str], list[float]] = {}
    repeats = 1 if check.dry else 15
    for _ in range(repeats):
        for stem, work in works.items():
            for name, way in WAYS.items():
                with way():
                    seconds.setdefault((name, stem), []).append(clock(work, device))
        if check.left < 10:
            break
    for (name, stem), values in seconds.items():
        ways[name][f"{stem}_seconds"] = statistics.median(values)
    return {"ways": ways, **_floors(subject, works)}


def _floors(subject: Subject, works: dict[str, Callable[[], None]]) -> Record:
    """What an action launches where the host decides, and the time of its products alone."""
    rate = matmul_flops_per_second(subject)
    found: Record = {}
    for stem in ("train_step", "log_prob"):
        with MatmulFlops() as flops:
            works[stem]()
        with _Launches() as launches:
            works[stem]()
        found[f"{stem}_flops"] = flops.total
        found[f"{stem}_products_seconds"] = flops.total / rate
        found[f"{stem}_launches"] = launches.count
    return found


class _Launches(TorchDispatchMode):
    """Operations that compute something: views and allocations launch nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not (func.is_view or "empty" in func.name() or "detach" in func.name())
        return func(*args, **(kwargs or {}))


def _launch_seconds(device: torch.device) -> Record:
    """What a launch takes, issued one by one, and as a node of a graph that is replayed."""
    count, tensor = 1000, torch.zeros(1, device=device)

    def launches() -> None:
        for _ in range(count):
            tensor.add_(1)

    launches()
    found: Record = {"issued": clock(launches, device) / count}
    if device.type == "cuda":
        replay = recorded.as_graph(launches)
        replay()
        found["replayed"] = clock(replay, device) / count
    return found


BACKENDS = """
name = "gpu-check-backends"
seeds = [0]
measures = ["work", "time", "memory", "ratio"]
budget = { steps = 0, batch_size = 1000, validation_rows = 1000 }
[[study]]
name = "toy"
flows = [{ name = "ffjord-toy", trace = "hutchinson", backend = ["native", "torchdiffeq"] }]
datasets = [{ name = "8gaussians", rows = 5000 }]
reference = { name = "ffjord-toy", trace = "hutchinson" }
budget = { batch_size = 512, steps = 200, learning_rate = 1e-2 }
[[study]]
name = "power"
flows = [{ name = "ffjord-power", backend = ["native", "torchdiffeq"] }]
datasets = [{ name = "power", rows = 10000 }]
reference = "ffjord-power"
[[study]]
name = "miniboone"
flows = [{ name = "ffjord-miniboone", backend = ["native", "torchdiffeq"] }]
datasets = [{ name = "gaussian", dimension = 43, rows = 5000 }]
reference = "ffjord-miniboone"
"""
"""Of the study `backends` what is ours and torchdiffeq's."""

SMALL_BACKENDS = """
name = "gpu-check-backends"
seeds = [0]
measures = ["work", "ratio"]
budget = { steps = 0, batch_size = 16, validation_rows = 10 }
[[study]]
flows = [{ name = "ffjord", hidden = [4], rtol = 1e-2, atol = 1e-2, backend = ["native"] }]
datasets = [{ name = "8gaussians", rows = 100, test_rows = 10 }]
reference = { name = "ffjord", hidden = [4], rtol = 1e-2, atol = 1e-2 }
"""


def backends(check: Check) -> Record:
    """Training step, density and sample over those of torchdiffeq's adjoint."""
    text = SMALL_BACKENDS if check.dry else BACKENDS
    return _cells(check, "backends", text, jobs=1, columns=("_ratio", "_over_matmul", "_seconds"))


TWO = """
name = "gpu-check-two"
seeds = [0, 1]
measures = ["quality", "memory"]
budget = {{ steps = {steps}, batch_size = 512, learning_rate = 1e-2, validation_rows = 200 }}
[[study]]
flows = [{{ name = "ffjord-toy", trace = "hutchinson"{more} }}]
datasets = [{{ name = "8gaussians", rows = 2000, test_rows = 200 }}]
"""


def two_cells(check: Check) -> Record:
    """Two cells that train on one device, one after the other and at once."""
    more = ", hidden = [4], atol = 1e-2, rtol = 1e-2" if check.dry else ""
    text = TWO.format(steps=2 if check.dry else 300, more=more)
    columns = ("train_seconds", "nll_nats", "peak_memory_bytes")
    found = {
        words: _cells(check, words, text, jobs=jobs, columns=columns)
        for words, jobs in (("in turn", 1), ("at once", 2))
    }
    return {**found, "passed": all(one["passed"] for one in found.values())}


def _cells(check: Check, name: str, text: str, *, jobs: int, columns: tuple[str, ...]) -> Record:
    """What `run` makes of a matrix: the records' columns that end so; it goes on where it was."""
    folder = check.out / name.replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    matrix = folder / "matrix.toml"
    matrix.write_text(text)
    words = ("--out", str(folder / "run"), "--device", check.device.type, "--jobs", str(jobs))
    found = check.run("-m", "benchmarks", "run", str(matrix), *words)
    from benchmarks.store import Store

    frame = Store(folder / "run").frame()
    names = ["flow_name", "flow.backend", "dataset_name", "seed", "status", "error"]
    kept = [column for column in frame if column in names or str(column).endswith(columns)]
    cells = json.loads(frame[kept].to_json(orient="records"))
    done = bool(cells) and all(cell.get("status") == "ok" for cell in cells)
    return {**found, "cells": cells, "passed": found["code"] == 0 and done}


@dataclass(frozen=True)
class Part:
    """A part and the seconds that it gets."""

    work: Callable[[Check], Record]
    seconds: float


PARTS = {
    "tests": Part(tests, 100),
    "waits": Part(waits, 60),
    "graphs": Part(graphs, 120),
    "backends": Part(backends, 110),
    "two-cells": Part(two_cells, 70),
}
"""In the order of their numbers, from 1."""

DRY_SECONDS = 300.0


# -- the command ----------------------------------------------------------------------------------


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("results/runs/gpu-check"))
@click.option("--part", type=click.IntRange(1, len(PARTS)), help="this one alone, even once more")
@click.option("--dry-run", "dry", is_flag=True, help="every part at tiny sizes on the CPU")
@click.option("--here", is_flag=True, hidden=True, help="in this process")
def main(out: Path, part: int | None, dry: bool, here: bool) -> None:
    """Check what only a GPU can show; exit code 1 where something is not as it should be."""
    if not dry and not torch.cuda.is_available():
        raise click.ClickException("torch sees no CUDA device here; --dry-run goes without")
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    passed = True
    for number, (name, one) in enumerate(PARTS.items(), 1):
        path = out / f"{name}.json"
        if part not in (None, number) or (part is None and path.exists()):
            passed &= part is not None or json.loads(path.read_text())["passed"]
            continue
        # A dry run proves nothing about time, and may share its machine.
        limit = DRY_SECONDS if dry else one.seconds
        if here:
            check = Check(out, dry, limit, time.monotonic())
            _keep(path, one.work(check), check)
        else:
            # A device that failed is lost to its process.
            path.unlink(missing_ok=True)
            command = ["-m", "benchmarks.perf.gpu_check", "--here", "--part", str(number)]
            words = [*command, "--out", str(out), *(["--dry-run"] if dry else [])]
            check = Check(out, dry, limit + 15, time.monotonic())
            done = check.run(*words)
            if not path.exists():
                _keep(path, {**done, "passed": False}, check)
        record = json.loads(path.read_text())
        if not here:
            click.echo(f"{number} {name}: {'passed' if record['passed'] else 'FAILED'}")
            click.echo(json.dumps(record, indent=1))
        passed &= record["passed"]
    sys.exit(0 if passed else 1)


def _keep(path: Path, record: Record, check: Check) -> None:
    seconds = time.monotonic() - check.begun
    about = {"dry_run": check.dry, "seconds": seconds}
    environment = describe_environment(check.device)
    path.write_text(json.dumps({**about, **record, "environment": environment}, indent=1))


if __name__ == "__main__":
    main()
