"""A run that is killed over and over ends with the records of one that was left in peace."""

import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.matrix import load_matrix
from benchmarks.run.claims import is_running
from benchmarks.store import Record, Store

KILLS = 8
# What is killed, and how: two of these let cells keep their state, the others do not.
VICTIMS = ("runner politely", "runner", "cell politely", "cell", "server", "tree")


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


@pytest.mark.slow
def test_a_storm_of_kills_changes_no_record(tmp_path: Path, tiny: Path) -> None:
    text = tiny.read_text().replace("steps = 20", "steps = 1500").replace("= 10\n", "= 100\n")
    tiny.write_text('measures = ["quality", "work", "time"]\n' + text)
    cells = load_matrix(str(tiny)).cells
    command = [sys.executable, "-m", "benchmarks", "run", str(tiny), "--out"]
    subprocess.run([*command, tmp_path / "peace"], check=True, capture_output=True)
    peace, store = Store(tmp_path / "peace"), Store(tmp_path / "storm")
    source = random.Random(0)
    seen: set[psutil.Process] = set()
    settled: dict[str, bytes] = {}
    for number in range(KILLS):
        with subprocess.Popen(
            [*command, store.directory],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as runner:
            # Something has to be under way to be killed.
            while runner.poll() is None and not any(is_running(store, c.key) for c in cells):
                time.sleep(0.02)
            time.sleep(source.uniform(0, 2))
            seen.update(family(runner))
            strike(runner, VICTIMS[number % len(VICTIMS)])
            if "runner" in VICTIMS[number % len(VICTIMS)]:
                runner.wait(120)
            else:
                # What is left of the run goes on; it is ended at some later time.
                time.sleep(source.uniform(0, 2))
                seen.update(family(runner))
                runner.kill()
        for path, content in settled.items():
            assert Path(path).read_bytes() == content, "a record was replaced"
        for cell in cells:
            record = store.read(cell)
            if isinstance(record, Record) and record.status == "ok":
                path = store.path(cell)
                settled.setdefault(str(path), path.read_bytes())
    done = subprocess.run(
        [*command, store.directory, "--retry-failed"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert results(store) == results(peace)
    assert not any(is_running(store, cell.key) for cell in cells)
    for left in ("pending", "claims", "runners"):
        found = [path.name for path in (store.directory / left).iterdir()]
        assert found == [], found
    _, alive = psutil.wait_procs(seen, timeout=30)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
