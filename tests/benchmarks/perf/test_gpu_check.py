"""The check on a GPU: its parts, as far as a CPU can go through them, and how they are kept."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import command_line
import pytest
import torch

from benchmarks.perf import gpu_check
from benchmarks.perf.gpu_check import DRY_SECONDS, PARTS, Check, Part, Record


def dry(out: Path, seconds: float = DRY_SECONDS) -> Check:
    return Check(out, True, seconds, time.monotonic())


def call(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        gpu_check.main([str(word) for word in words])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.slow
@pytest.mark.parametrize("number", range(1, len(PARTS) + 1), ids=list(PARTS))
def test_every_part_has_a_dry_run(
    tmp_path: Path, number: int, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first as a user has it; of the others nothing but the cells is in other processes."""
    where = []
    if number > 1:
        where = ["--here"]

        def run(self: Check, *words: str, **_: str) -> Record:
            return {"code": command_line.call(*words[2:], capsys=capsys)[0]}

        monkeypatch.setattr(Check, "run", run)
    assert call("--dry-run", *where, "--out", tmp_path, "--part", number) == 0
    (record,) = (json.loads(path.read_text()) for path in tmp_path.glob("*.json"))
    assert record["passed"]
    assert record["dry_run"]
    assert record["environment"]["torch"]


def test_ways_to_solve_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "CASES", {"toy": gpu_check.CASES["toy"]})
    found = gpu_check.graphs(dry(tmp_path))
    assert found["passed"]
    ways = found["toy"]["ways"]
    assert list(ways) == list(gpu_check.WAYS)
    assert len({way["nfe"] for way in ways.values()}) == 1
    assert all(way["train_step_seconds"] > 0 for way in ways.values())
    assert found["toy"]["log_prob_launches"] > 10
    assert found["toy"]["train_step_flops"] > found["toy"]["log_prob_flops"] > 0


def test_without_time_left_a_part_says_so(tmp_path: Path) -> None:
    found = gpu_check.waits(dry(tmp_path, seconds=0))
    assert set(found["waits"].values()) == {"no time left"}
    assert not found["passed"]


def test_a_command_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    code = "import subprocess; print('here', flush=True); subprocess.run(['sleep', '100'])"
    found = dry(tmp_path, seconds=0).run("-c", code)
    assert found["code"] is None
    assert found["seconds"] < 50


def test_it_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def part(name: str, passed: bool) -> Part:
        def work(check: Check) -> Record:
            ran.append(name)
            return {"passed": passed}

        return Part(work, 1.0)

    monkeypatch.setattr(gpu_check, "PARTS", {"one": part("one", True), "two": part("two", False)})
    words = "--dry-run", "--here", "--out", tmp_path
    assert call(*words, "--part", 1) == 0
    assert call(*words) == 1
    assert call(*words) == 1
    assert ran == ["one", "two"]
    assert call(*words, "--part", 1) == 0
    assert ran == ["one", "two", "one"]


def test_the_parts_take_under_nine_minutes() -> None:
    assert sum(part.seconds + 15 for part in PARTS.values()) < 9 * 60


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("--out", tmp_path) == 1
    assert "--dry-run" in capsys.readouterr().err
