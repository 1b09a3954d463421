"""What processor this is: what decides how fast the same work runs, and on which kind it ran."""

from __future__ import annotations

import functools
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Processor", "processor"]

# The widest first: names of the kernel's flags (x86) and features (ARM), and what they are called.
_WIDEST = {
    "avx512f": "AVX-512",
    "avx2": "AVX2",
    "avx": "AVX",
    "sse2": "SSE2",
    "sve2": "SVE2",
    "sve": "SVE",
    "asimd": "NEON",
}
_VECTOR = re.compile(r"sse|ssse|avx|fma|f16c|amx|asimd|sve|sme(?!p)|fphp|bf16|i8mm")


@dataclass(frozen=True)
class Processor:
    """A kind of processor; None, or empty, where the system does not tell.

    Attributes:
        name: as it calls itself. Virtual machines often give no more than the maker's name.
        family, model: by the maker's numbering; on ARM the implementer and the part.
        stepping: its revision.
        vector_extensions: the kernel's names of them, in alphabetical order.
        level2_bytes: second-level cache of a core.
        level3_bytes: third-level cache that the first core sees.
    """

    name: str
    family: int | None = None
    model: int | None = None
    stepping: int | None = None
    vector_extensions: tuple[str, ...] = ()
    level2_bytes: int | None = None
    level3_bytes: int | None = None

    @property
    def label(self) -> str:
        """One line that is the same on all machines of a kind.

        Example:
            >>> Processor("A CPU", 6, 143, 8, ("avx", "avx2"), 2 * 2**20, 105 * 2**20).label
            'A CPU (6-143-8), AVX2, L2 2 MiB, L3 105 MiB'
        """
        numbers = [n for n in (self.family, self.model, self.stepping) if n is not None]
        words = [f"{self.name} ({'-'.join(map(str, numbers))})" if numbers else self.name]
        words += [name for flag, name in _WIDEST.items() if flag in self.vector_extensions][:1]
        words += [
            f"{level} {size / 2**20:g} MiB"
            for level, size in (("L2", self.level2_bytes), ("L3", self.level3_bytes))
            if size is not None
        ]
        return ", ".join(words)


@functools.cache
def processor() -> Processor:
    """The processor of this machine, as far as the system tells."""
    try:
        facts = _first_block(Path("/proc/cpuinfo").read_text())
    except OSError:
        facts = {}
    flags = facts.get("flags", facts.get("Features", "")).split()
    caches = _caches(Path("/sys/devices/system/cpu/cpu0/cache"))
    return Processor(
        name=" ".join(facts.get("model name", "").split())
        or platform.processor()
        or platform.machine(),
        family=_number(facts, "cpu family", "CPU implementer"),
        model=_number(facts, "model", "CPU part"),
        stepping=_number(facts, "stepping", "CPU revision"),
        vector_extensions=tuple(sorted(flag for flag in set(flags) if _VECTOR.match(flag))),
        level2_bytes=caches.get(2),
        level3_bytes=caches.get(3),
    )


def _first_block(text: str) -> dict[str, str]:
    """The lines ``name : value`` of the first processor in /proc/cpuinfo."""
    pairs = (line.partition(":") for line in text.strip().partition("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _number(facts: Mapping[str, str], *names: str) -> int | None:
    for name in names:
        try:
            return int(facts[name], 0)
        except (KeyError, ValueError):
            continue
    return None


def _caches(folder: Path) -> dict[int, int]:
    """Level to size in bytes, of the caches that hold data."""
    found = {}
    for index in sorted(folder.glob("index*")):
        try:
            level, kind, size = (
                (index / name).read_text().strip() for name in ("level", "type", "size")
            )
            if kind != "Instruction":
                found[int(level)] = int(size.removesuffix("K")) * 1024
        except (OSError, ValueError):
            continue
    return found
