"""How long README's commands take from a fresh clone: ``python -m benchmarks.report.commands``.

Run on a quiet machine. The environment is installed before: that depends on the network.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.environment import describe_environment
from benchmarks.report.readme import COMMANDS
from benchmarks.store import write_atomically

__all__ = ["time_commands"]

TIMED = ("make quick", "make test")


def time_commands(root: Path, commands: Sequence[str] = TIMED) -> Path:
    """Run commands in a clone of a checkout's last commit and keep how long each took.

    Args:
        root: the checkout.
        commands: to be run one after the other, after ``make .venv``.

    Returns:
        The file that was written.

    Raises:
        subprocess.CalledProcessError: if one of them fails; then nothing is written.
    """
    machine = describe_environment(torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(root.resolve()), str(clone)], check=True)
        head = ["git", "rev-parse", "HEAD"]
        commit = subprocess.run(head, cwd=clone, check=True, capture_output=True, text=True)
        subprocess.run(["make", ".venv"], cwd=clone, check=True)
        seconds = {}
        for command in commands:
            start = time.monotonic()
            subprocess.run(command.split(), cwd=clone, check=True)
            seconds[command] = round(time.monotonic() - start, 1)
    found = {
        "seconds": seconds,
        "git_commit": commit.stdout.strip(),
        "machine": machine["machine"],
        "cpu_cores": machine["cpu_cores"],
    }
    path = root / "results" / "reference" / COMMANDS
    write_atomically(path, json.dumps(found, indent=1).encode() + b"\n")
    return path


if __name__ == "__main__":
    print(time_commands(Path()))
