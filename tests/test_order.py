"""In which order tests run."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


def test_the_longest_files_come_first_and_none_is_divided(
    pytestconfig: pytest.Config,
) -> None:
    rule = pytestconfig.pluginmanager.get_plugin(str(pytestconfig.rootpath / "conftest.py"))

    def item(file: str, name: str, slow: bool = False, **said: float) -> Any:
        mark = SimpleNamespace(kwargs=said) if slow else None
        return SimpleNamespace(path=Path(file), name=name, get_closest_marker=lambda _: mark)

    items = [
        item("a", "1"),
        *(item("b", name) for name in "12"),
        *(item("c", name, slow=name == "2") for name in "12"),
        *(item("d", name) for name in "123"),
        item("e", "1", slow=True, seconds=60),
    ]
    assert rule is not None
    rule.pytest_collection_modifyitems(items)
    assert [f"{found.path}{found.name}" for found in items] == [
        "e1",
        *("c1", "c2"),
        *("d1", "d2", "d3"),
        *("b1", "b2"),
        "a1",
    ]
