"""The report of the records that are committed, and whether what is committed is what they give.

``results/reference/``
    a collection of records a folder (:mod:`benchmarks.collection`).
``results/report/``
    one report of all of them.
``README.md``
    its blocks that are made from them (:mod:`benchmarks.report.readme`).
"""

from __future__ import annotations

import base64
import io
import math
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.errors import StoreError
from benchmarks.report import ReportSummary, readme, write_report
from benchmarks.report.svg import as_svg
from benchmarks.store import Store

__all__ = ["Reference", "report_differences", "text_differences"]


@dataclass(frozen=True)
class Reference:
    """Where records, report and README of a checkout lie.

    Args:
        root: the checkout.

    Raises:
        StoreError: if there are no committed records.
    """

    root: Path

    def __post_init__(self) -> None:
        if not self.stores:
            raise StoreError(
                f"{self.root.resolve()} holds no results/reference: name folders of records, or "
                "call this in a checkout of the project"
            )

    @property
    def stores(self) -> list[Store]:
        """The committed records, a folder a collection."""
        folders = sorted((self.root / "results" / "reference").glob("*/cells"))
        return [Store(folder.parent) for folder in folders]

    @property
    def report(self) -> Path:
        """Folder of the report."""
        return self.root / "results" / "report"

    @property
    def readme(self) -> Path:
        """The file with blocks."""
        return self.root / "README.md"

    def write(self) -> ReportSummary:
        """Make the report, in the place of the one that was there, and README's blocks."""
        self.report.parent.mkdir(exist_ok=True)
        # Beside it, so that nothing stays that is made no more, and nothing is lost on the way.
        with tempfile.TemporaryDirectory(dir=self.report.parent, prefix=".report-") as folder:
            made = Path(folder) / "report"
            summary, text = self._make(made)
            shutil.rmtree(self.report, ignore_errors=True)
            made.replace(self.report)
        self.readme.write_text(text, encoding="utf-8")
        return summary

    def differences(self) -> list[str]:
        """What in report and README is not what the records give, an item each."""
        with tempfile.TemporaryDirectory() as folder:
            _, text = self._make(Path(folder))
            found = _folder_differences(self.report, Path(folder), "results/report/")
        return found + [f"README.md, {item}" for item in text_differences(self._text(), text)]

    def _make(self, folder: Path) -> tuple[ReportSummary, str]:
        """The report in a folder, and README's text."""
        summary = write_report(self.stores, folder)
        if (drawn := summary.picture) is not None:
            # README shows it, which cannot show a part of the page.
            text = as_svg(drawn.figure, drawn.name)
            (folder / f"{drawn.name}.svg").write_text(text, encoding="utf-8")
        material = readme.Material(summary, self.root)
        return summary, readme.filled(self._text(), material)

    def _text(self) -> str:
        try:
            return self.readme.read_text(encoding="utf-8")
        except OSError as error:
            raise StoreError(f"cannot read {self.readme}: {error.strerror}") from error


def report_differences(stores: Sequence[Store], report: Path) -> list[str]:
    """What in a report of some records is not what they give, an item each."""
    with tempfile.TemporaryDirectory() as folder:
        write_report(stores, Path(folder))
        return _folder_differences(report, Path(folder), "")


def _folder_differences(committed: Path, made: Path, prefix: str) -> list[str]:
    """How a report differs from one made afresh, an item a file that is not what it should be."""
    there, fresh = (
        {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        for folder in (committed, made)
    )
    found = []
    for name in sorted(there.keys() | fresh.keys()):
        if name not in there:
            found.append(f"{prefix}{name} is missing")
        elif name not in fresh:
            found.append(f"{prefix}{name}: no record gives it")
        else:
            old, new = there[name].read_bytes(), fresh[name].read_bytes()
            if old != new:
                texts = (data.decode("utf-8", "replace") for data in (old, new))
                found += [f"{prefix}{name}, {item}" for item in text_differences(*texts)]
    return found


MOST_ITEMS = 5
"""So many lines of a file are named, then how many more there are."""


def text_differences(old: str, new: str) -> list[str]:
    """Lines that say something else, beyond what numbers owe to a processor's rounding."""
    if old == new:
        return []
    old, new = _plain(old), _plain(new)
    found = [
        f"line {number}: {item}"
        for number, (a, b) in enumerate(zip_longest(old.splitlines(), new.splitlines()), start=1)
        if (item := _line_difference(a, b))
    ]
    more = len(found) - MOST_ITEMS
    return found[:MOST_ITEMS] + ([f"and {more} more lines"] if more > 0 else [])


_IMAGE = re.compile(r"data:image/(?:png|webp);base64,\s*([A-Za-z0-9+/=\s]+)")
_NUMBER = re.compile(r"(-?(?:\d+(?:\.\d+)?|\.\d+)(?:e[-+]?\d+)?)")


def _plain(text: str) -> str:
    """A text with pictures by what they show."""
    return _IMAGE.sub(lambda found: _shown(found[1]), text)


def _shown(data: str) -> str:
    """A picture's size and how bright its parts are, in eight levels."""
    image = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA")
    small = image.resize((8, 8), Image.Resampling.BOX)
    levels = np.asarray(small, dtype=float).round(-1).astype(int)
    return f"picture {image.size} {levels.ravel().tolist()}"


def _line_difference(old: str | None, new: str | None) -> str:
    """What differs between two lines, with a little of what stands around it; empty if nothing."""
    if old is None or new is None:
        return f"{_brief(old)} there, {_brief(new)} by the records"
    if old == new:
        return ""
    a, b = _NUMBER.split(old), _NUMBER.split(new)
    # Two places that are rounded to a tenth, and the way between them.
    last = 0.21 if "<svg" in old and "<svg" in new else 0.0
    for place, (left, right) in enumerate(zip_longest(a, b, fillvalue="")):
        if left == right or (place % 2 and _same(left, right, last)):
            continue
        before = "".join(a[max(0, place - 2) : place])[-40:].lstrip()
        return f"{before}{_brief(left)} there, {_brief(right)} by the records"
    return ""


def _same(left: str, right: str, last: float) -> bool:
    """Whether two numbers are the same but for the last digits that are written: up to ``last``."""
    if not (left and right):
        return False
    # Animations have four digits after the point, tables nine that count.
    if all(re.fullmatch(r"-?\d+\.\d{4,6}", text) for text in (left, right)):
        last = max(last, 2e-6)
    return math.isclose(float(left), float(right), rel_tol=1e-6, abs_tol=last)


def _brief(text: str | None) -> str:
    if not text:
        return "nothing"
    text = " ".join(text.split())
    return f"{text[:60]}..." if len(text) > 60 else text
