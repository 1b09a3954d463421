"""What a processor is, read from what the kernel writes."""

from pathlib import Path
from typing import Any

import pytest

from flows import processor as module
from flows.processor import Processor, processor

X86 = """processor : 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R)  Xeon(R) Platinum 8481C
stepping\t: 8
flags\t\t: fpu sse sse2 smep avx avx2 fma avx512f amx_tile

processor : 1
model\t\t: 1
"""
ARM = """processor\t: 0
Features\t: fp asimd sve sve2 bf16
CPU implementer\t: 0x41
CPU part\t: 0xd4f
CPU revision\t: 1
"""


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files in the place of the kernel's."""

    def path(name: str) -> Path:
        return tmp_path / name.removeprefix("/")

    monkeypatch.setattr(module, "Path", path)
    monkeypatch.setattr(module, "processor", processor.__wrapped__)
    for index, (level, kind, size) in enumerate(
        [("1", "Data", "48K"), ("2", "Unified", "2048K"), ("3", "Unified", "107520K")]
    ):
        folder = tmp_path / f"sys/devices/system/cpu/cpu0/cache/index{index}"
        folder.mkdir(parents=True)
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(f"{text}\n")
    (tmp_path / "proc").mkdir()
    return tmp_path


def test_an_intel_is_told_from_its_numbers(kernel: Path) -> None:
    (kernel / "proc/cpuinfo").write_text(X86)
    found = module.processor()
    assert (found.family, found.model, found.stepping) == (6, 143, 8)
    assert found.vector_extensions == ("amx_tile", "avx", "avx2", "avx512f", "fma", "sse", "sse2")
    assert found.label == (
        "Intel(R) Xeon(R) Platinum 8481C (6-143-8), AVX-512, L2 2 MiB, L3 105 MiB"
    )


def test_an_arm_is_told_from_its_part(kernel: Path) -> None:
    (kernel / "proc/cpuinfo").write_text(ARM)
    found = module.processor()
    assert (found.family, found.model, found.stepping) == (0x41, 0xD4F, 1)
    assert "SVE2" in found.label


def test_a_system_that_tells_nothing_has_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Path", lambda name: tmp_path / "none")
    found = processor.__wrapped__()
    assert found.name
    assert found.label == found.name


@pytest.mark.parametrize(
    "other", [{"model": 1}, {"stepping": 2}, {"vector_extensions": ()}, {"level3_bytes": 2**20}]
)
def test_kinds_that_differ_have_labels_that_differ(other: dict[str, Any]) -> None:
    """`AMD EPYC` is the name of processors with half and with twice the speed."""
    same = {"family": 25, "model": 17, "stepping": 1, "vector_extensions": ("avx512f",)}
    one = Processor("AMD EPYC", **same, level3_bytes=2**25)  # type: ignore[arg-type]
    assert Processor("AMD EPYC", **{**same, "level3_bytes": 2**25, **other}).label != one.label


def test_this_processor_is_the_same_each_time() -> None:
    assert processor() == processor.__wrapped__()
    assert processor().name in processor().label
