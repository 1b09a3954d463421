"""The suite: what asv and old commits need of it, and that it measures what the measures do."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import flows
from benchmarks.perf.suite import common, continuous, families, harness, images, training

ROOT = Path(__file__).resolve().parents[3]


def test_importing_the_suite_touches_no_cuda() -> None:
    """Benchmarks are forked from a process that has imported it: CUDA there breaks them all."""
    code = (
        "import torch\n"
        "def touched(*_): raise AssertionError('CUDA was asked for')\n"
        "torch.cuda.is_available = torch.cuda._lazy_init = touched\n"
        "from benchmarks.perf.suite import continuous, families, harness, images, training\n"
        "assert torch.get_num_threads() == 1\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stderr


def test_other_code_than_the_commit_is_refused(tmp_path: Path) -> None:
    environment = {**os.environ, "ASV_ENV_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", "import benchmarks.perf.suite"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "flows comes from" in done.stderr
    assert "is being measured" in done.stderr


def test_every_benchmark_has_a_threshold_of_its_kind() -> None:
    from asv.util import load_json

    patterns = load_json(str(ROOT / "asv.conf.json"), js_comments=True)["regressions_thresholds"]
    names = [
        f"{path.stem}.{name}"
        for path in (ROOT / "benchmarks/perf/suite").glob("*.py")
        for name in re.findall(r"def ((?:time|track)_\w+)", path.read_text())
    ]
    assert len(names) > 10
    for name in names:
        assert any(re.match(pattern, name) for pattern in patterns), name


def test_every_system_of_the_project_is_tracked() -> None:
    """A failure names the flow to add to FAMILIES in families.py or images.py of the suite.

    These are lists, and not taken from the catalog, since a commit's catalog may lack a flow and
    asv tells parameters apart by their places.
    """
    own = [entry for entry in flows.ENTRIES.values() if "/" not in entry.name]
    names = {*families.FAMILIES, *images.FAMILIES}
    tracked = {entry.config_class for entry in own if entry.name in names}
    assert names <= {entry.name for entry in own}
    assert [entry.name for entry in own if entry.config_class not in tracked] == []


def test_what_is_not_here_is_skipped() -> None:
    assert common.DEVICES == ["cpu", "cuda"]
    if not torch.cuda.is_available():
        with pytest.raises(NotImplementedError, match="no CUDA device"):
            common.subject("nice", (2,), 8, "cuda")
    # A commit that lacks a flow leaves a gap in its line, not a failure.
    with pytest.raises(NotImplementedError, match=r"does not have it: .*'later'"):
        common.subject("later", (2,), 8)
    with pytest.raises(NotImplementedError, match="no log_prob"):
        common.action("log_prob", "planar", (2,), 8)
    common.action("sample", "planar", (2,), 8)()


def test_what_is_measured_is_what_the_measures_do() -> None:
    # Each layer of NICE is one evaluation of a network.
    layers = flows.entry("nice").config_class().model_dump()["layers"]
    for column in ("nfe_log_prob", "nfe_sample", "nfe_train_forward"):
        work = families.Work()
        work.setup("nice", 2, column)
        assert work.track_nfe("nice", 2, column) == layers
    # What the steps of a flow allocate at least: a gradient of each weight.
    memory = families.Memory()
    memory.setup("nice", "cpu")
    parameters = common.subject(*families.of_size("nice", 16)).flow.parameter_count
    assert memory.track_peak_memory("nice", "cpu") > 4 * parameters


def test_steps_of_a_benchmark_leave_the_weights_where_they_are() -> None:
    """Else a flow would need more and more solver steps from one sample to the next."""
    before = [weight.clone() for weight in common.subject("nice", (2,), 8).flow.parameters()]
    for _ in range(3):
        common.action("train_step", "nice", (2,), 8)()
    after = common.subject("nice", (2,), 8).flow.parameters()
    torch.testing.assert_close(list(after), before, rtol=0, atol=1e-9)


def benchmarks() -> list[tuple[type, str, tuple[Any, ...]]]:
    """Every benchmark with each value of each of its parameters, if not with all pairs of them."""
    found = []
    for module in (families, images, continuous, harness, training):
        for name, kind in inspect.getmembers(module, inspect.isclass):
            if kind.__module__ != module.__name__ or name.startswith("_"):
                continue
            axes = getattr(kind, "params", ())
            axes = [[v for v in axis if v != "cuda"] for axis in getattr(kind, "params", ())]
            number = max(map(len, axes), default=1)
            cases = [tuple(axis[place % len(axis)] for axis in axes) for place in range(number)]
            methods = [each for each in dir(kind) if re.match("time_|track_", each)]
            found += [(kind, each, case) for each in methods for case in cases]
    return found


@pytest.mark.slow(seconds=16)
def test_every_benchmark_runs() -> None:
    ran = set()
    for kind, method, case in benchmarks():
        benchmark = kind()
        try:
            getattr(benchmark, "setup", lambda *_: None)(*case)
        except NotImplementedError:
            continue
        getattr(benchmark, method)(*case)
        getattr(benchmark, "teardown", lambda *_: None)()
        ran.add((kind.__module__, kind.__name__, method))
    assert ran == {(kind.__module__, kind.__name__, method) for kind, method, _ in benchmarks()}
    assert len(ran) > 15
