"""A run that is killed over and over ends with the records of one that was left in peace.

A storm of sixty kills on cells of half a minute, one for each three, which prints what was killed::

    STORM_KILLS=60 STORM_STEPS=12000 python -m pytest tests/benchmarks/test_storm.py -s
"""

import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
from command_line import call

from benchmarks.cell import Cell
from benchmarks.matrix import load_matrix
from benchmarks.run.claims import is_running
from benchmarks.store import Record, Store

KILLS = int(os.environ.get("STORM_KILLS", "6"))
STEPS = int(os.environ.get("STORM_STEPS", "1500"))
# What is killed, and how: two of these let cells keep their state, the others do not.
VICTIMS = ("runner politely", "runner", "cell politely", "cell", "server", "tree")
STAGES = ("quality", "cost")
# Each once in six, on one stage and then on the other; three of a stage, for a training is long.
PLAN = [
    *((victim, "quality") for victim in VICTIMS[::2]),
    *((victim, "cost") for victim in VICTIMS[1::2]),
    *((victim, "quality") for victim in VICTIMS[1::2]),
    *((victim, "cost") for victim in VICTIMS[::2]),
]


def results(store: Store) -> dict[str, Any]:
    """What was measured but for times, and the curves, by cell."""
    records, left_out = store.records()
    assert left_out == []
    found = {}
    for record in records:
        assert record.status == "ok", record.reason
        timed = ("second", "shared", "bytes", "ratio", "flops")
        measured = {
            name: value
            for name, value in record.measures.items()
            if not any(word in name for word in timed)
        }
        curve = store.curve(record.key).drop(columns="seconds")
        found[record.key] = json.dumps([measured, curve.to_dict("list")], sort_keys=True)
    return found


def family(runner: subprocess.Popen[str]) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(runner.pid).children(recursive=True)
    return []


def strike(runner: subprocess.Popen[str], victim: str) -> None:
    """Kill what is called so; that may be gone already."""
    all_of_it = family(runner)
    server = next((p for p in all_of_it if "forkserver" in " ".join(p.cmdline())), None)
    cells = server.children() if server else []
    with contextlib.suppress(psutil.Error):
        match victim:
            case "runner politely":
                runner.send_signal(signal.SIGTERM)
            case "runner":
                runner.kill()
            case "cell politely":
                [cell.send_signal(signal.SIGUSR2) for cell in cells[:1]]
            case "cell":
                [cell.kill() for cell in cells[:1]]
            case "server":
                [each.kill() for each in [server] if each]
            case "tree":
                runner.kill()
                [each.kill() for each in all_of_it]


def under_way(store: Store, cells: list[Cell], stage: str) -> bool:
    return any(
        store.progress(cell.key).get("stage") == stage and is_running(store, cell.key)
        for cell in cells
    )


def mean_seconds(store: Store, stage: str) -> float:
    return statistics.fmean(
        float(record.measures[f"{stage}_stage_seconds"] or 0) for record in store.records()[0]
    )


@pytest.mark.slow(seconds=90)
def test_a_storm_of_kills_changes_no_record(tmp_path: Path, tiny: Path) -> None:
    seeds = list(range(max(2, KILLS // 6)))
    text = tiny.read_text().replace("[0]", str(seeds))
    text = text.replace("steps = 20", f"steps = {STEPS}").replace("= 10\n", "= 100\n")
    tiny.write_text('measures = ["quality", "work", "time", "memory"]\n' + text)
    cells = load_matrix(str(tiny)).cells
    words = ("run", tiny, "--jobs", "2", "--retry-failed", "--out")
    assert call(*words, tmp_path / "peace")[0] == 0
    command = [sys.executable, "-m", "benchmarks", *words]
    peace, store = Store(tmp_path / "peace"), Store(tmp_path / "storm")
    # A part of a training, so that it gets somewhere; the whole of a timing.
    pauses = {"quality": mean_seconds(peace, "quality") / 3, "cost": mean_seconds(peace, "cost")}
    source = random.Random(0)
    seen: set[psutil.Process] = set()
    settled: dict[Path, bytes] = {}
    killed: Counter[tuple[str, str]] = Counter()

    def unsettled() -> list[Cell]:
        return [cell for cell in cells if store.path(cell) not in settled]

    while killed.total() < KILLS and unsettled():
        victim, stage = PLAN[killed.total() % len(PLAN)]
        # Two cells a run, so that trainings and timings take turns.
        with subprocess.Popen(
            [*command, store.directory, "--limit", "2"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as runner:
            # Something has to be under way to be killed.
            while not (hit := under_way(store, unsettled(), stage)) and runner.poll() is None:
                time.sleep(0.01)
            if hit:
                time.sleep(source.uniform(0, pauses[stage]))
                seen.update(family(runner))
                strike(runner, victim)
                killed[victim, stage] += 1
                if "runner" not in victim and victim != "tree":
                    # What is left of the run goes on; it is ended at some later time.
                    time.sleep(source.uniform(0, pauses[stage]))
                    seen.update(family(runner))
                    runner.kill()
            runner.wait()
        for path, content in settled.items():
            assert path.read_bytes() == content, "a record was lost or replaced"
        for cell in unsettled():
            record = store.read(cell)
            if isinstance(record, Record) and record.status == "ok":
                settled[store.path(cell)] = store.path(cell).read_bytes()
    print(f"\n{len(cells)} cells, {len(settled)} with a record when the storm ended; kills:")
    for victim in VICTIMS:
        counts = "".join(f"{killed[victim, stage]:9}" for stage in STAGES)
        print(f"{victim:16}{counts}")
    assert killed
    code, _, err = call(*words, store.directory)
    assert code == 0, err
    assert {path.read_bytes() for path in settled} == set(settled.values())
    assert sorted(path.stem for path in store.directory.rglob("cells/*/*/*.json")) == sorted(
        cell.key for cell in cells
    )
    assert results(store) == results(peace)
    assert not any(is_running(store, cell.key) for cell in cells)
    for left in ("pending", "claims", "runners"):
        found = [path.name for path in (store.directory / left).iterdir()]
        assert found == [], found
    _, alive = psutil.wait_procs(seen, timeout=600)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    print("records as of an undisturbed run; none lost, replaced or doubled; nothing left behind")
