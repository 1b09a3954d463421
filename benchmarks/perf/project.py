"""The checkout whose commits are measured, and asv in it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.errors import BenchError

if TYPE_CHECKING:
    from benchmarks.perf.machine import Machine

__all__ = ["PerformanceError", "Project"]

CODE = ("flows", "datasets", "benchmarks", "asv.conf.json", "pyproject.toml")

_FAILED = "asv ended with an error: see above"


class PerformanceError(BenchError):
    """asv cannot do what was asked; the message says why."""


class Project:
    """The checkout whose commits are measured.

    Attributes:
        root: the folder of ``asv.conf.json``.
        config: asv's configuration.
        suite: folder of the benchmarks.
        results: of the history that is kept.
        html: of the published pages.
        scratch: of what is not kept; git ignores it.
    """

    def __init__(self, root: Path) -> None:
        from asv.config import Config

        self.root = root
        self.config: Any = Config.load(str(root / "asv.conf.json"))
        self.suite = root / self.config.benchmark_dir
        self.results = root / self.config.results_dir
        self.html = root / self.config.html_dir
        self.scratch = root / ".asv"

    @classmethod
    def here(cls) -> Project:
        """The checkout that the current folder lies in.

        Raises:
            PerformanceError: if there is none, or asv is not installed.
        """
        if importlib.util.find_spec("asv") is None:
            raise PerformanceError("asv is not installed: pip install 'ffjord-bench[perf]'")
        for folder in (Path.cwd(), *Path.cwd().parents):
            if (folder / "asv.conf.json").is_file() and (folder / ".git").exists():
                return cls(folder)
        raise PerformanceError("perf measures commits: call it in a git checkout of the project")

    def git(self, *words: str) -> str:
        """Output of a git command; PerformanceError with what git says if it fails."""
        done = subprocess.run(
            ["git", *words], cwd=self.root, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise PerformanceError(f"git {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def commit(self, name: str) -> str:
        """Full hash of a commit; PerformanceError if there is no such commit."""
        try:
            return self.git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
        except PerformanceError:
            raise PerformanceError(f"{name} is not a commit of {self.root}") from None

    def commits(self, text: str) -> list[str]:
        """Full hashes of a range of commits, or of the one of that name; at least one."""
        if ".." not in text and "^" not in text:
            return [self.commit(text)]
        found = self.git("rev-list", "--first-parent", text).split()
        if not found:
            raise PerformanceError(f"there is no commit in {text}")
        return found

    def describe(self, commit: str) -> str:
        """Short hash and subject of a commit."""
        return self.git("log", "-1", "--format=%h (%s)", commit)

    def refuse_dirty(self) -> None:
        """Raise PerformanceError if there are uncommitted changes of the code."""
        changed = self.git("status", "--porcelain", "--", *CODE).splitlines()
        if changed:
            named = ", ".join(line[2:].strip() for line in changed[:3])
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise PerformanceError(
                f"not committed: {named}{more}. asv measures commits, so the results would be "
                f"saved under {self.git('rev-parse', '--short', 'HEAD')} without these changes. "
                "Commit or stash them; `perf run --quick` runs the tree as it is and saves nothing"
            )

    def asv(self, command: str, *words: str) -> None:
        """Run asv, its output shown as it comes; PerformanceError if it ends with an error."""
        if self._asv("asv.conf.json", {}, command, *words):
            raise PerformanceError(_FAILED)

    def measure(
        self, machine: Machine, results: Path, words: Sequence[str], commits: Sequence[str] = ()
    ) -> bool:
        """Have asv run benchmarks.

        Args:
            machine: where.
            results: folder of the results.
            words: further options of ``asv run``.
            commits: full hashes; none for the working tree.

        Returns:
            Whether all that ran worked.

        Raises:
            PerformanceError: if asv ends with an error.
        """
        self.scratch.mkdir(exist_ok=True)
        described = {machine.name: machine.facts, "version": 1}
        (self.scratch / "machine.json").write_text(json.dumps(described))
        # Only a configuration can name another folder of results.
        config = ".asv.conf.json"
        settings = {**vars(self.config), "results_dir": str(results), "version": 1}
        (self.root / config).write_text(json.dumps(settings))
        which = ["-E", "existing"]
        if commits:
            listed = self.scratch / "commits.txt"
            listed.write_text("\n".join(commits) + "\n")
            which = ["--record-samples", f"HASHFILE:{listed}"]
        words = ["--machine", machine.name, *words, *which]
        code = self._asv(config, machine.environment, "run", *words)
        # 2: it ran, and some benchmark failed.
        if code not in (0, 2):
            raise PerformanceError(_FAILED)
        return code == 0

    def _asv(self, config: str, environment: Mapping[str, str], command: str, *words: str) -> int:
        environment = {**environment, **os.environ}
        # What runs in the existing environment is the working tree, whatever is installed.
        environment.pop("ASV_PYTHONPATH", None)
        if "existing" in words:
            environment["ASV_PYTHONPATH"] = str(self.root)
        sys.stdout.flush()
        asv = [sys.executable, "-m", "asv", "--config", config]
        done = subprocess.run([*asv, command, *words], cwd=self.root, env=environment, check=False)
        return done.returncode
