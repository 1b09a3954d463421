"""Trained flows in files: what a flow was built from, and its weights; no code."""

from __future__ import annotations

import os
import pickle
import platform
import tempfile
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import torch
from pydantic import ValidationError

from flows.base import Flow, FlowError
from flows.registry import UnknownFlow, build, entry

__all__ = ["NotLoadable", "NotSaveable", "load", "save"]

_FORMAT = "ffjord-bench flow 1"


class NotSaveable(FlowError, TypeError):
    """A flow that was not made by :func:`flows.build`, so that nothing says how to make another."""


class NotLoadable(FlowError, ValueError):
    """A file that holds no flow, or one that cannot be made here; the message says why."""


def save(flow: Flow, path: str | os.PathLike[str] | BinaryIO) -> None:
    """Write a flow to a file, from which :func:`load` makes it again.

    The file holds the name of the entry, its options, the event's shape, the weights, and which
    versions wrote it: plain values and tensors, which are read without running any code. It is
    there whole or not at all.

    Args:
        flow: made by :func:`flows.build`.
        path: of the file, which is replaced if it is there; or an open binary file.

    Raises:
        NotSaveable: if the flow was made otherwise.
    """
    if flow.recipe is None:
        raise NotSaveable(
            f"this {type(flow).__name__} was not made by flows.build, which notes what a flow is "
            "made from: save its state_dict() instead"
        )
    found = entry(flow.recipe.name)
    content = {
        "format": _FORMAT,
        "name": flow.recipe.name,
        "options": dict(flow.recipe.options),
        "event_shape": list(flow.event_shape),
        "context_features": flow.recipe.context_features,
        "dtype": str(flow.dtype).removeprefix("torch."),
        "version": found.config_class.version,
        "origin": found.origin,
        "written_by": {"torch": str(torch.__version__), "python": platform.python_version()},
        "state": flow.state_dict(),
    }
    if not isinstance(path, str | os.PathLike):
        torch.save(content, path)
        return
    path = Path(path)
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        try:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def load(path: str | os.PathLike[str], map_location: torch.device | str | None = None) -> Flow:
    """Make the flow that :func:`save` wrote, in evaluation mode.

    Args:
        path: of the file.
        map_location: the device that the flow goes to; None for the one that it was saved from.

    Raises:
        FileNotFoundError: if there is no file.
        NotLoadable: if it holds no flow, or one whose options or weights do not fit the system as
            it is here.
        flows.UnknownFlow: if the flow is of a plugin that is not here.

    Warns:
        UserWarning: if the system's results have changed since the flow was saved.

    Example:
        >>> import tempfile
        >>> from flows import build
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(build("maf", event_shape=(6,), layers=2), f"{folder}/maf.pt")
        ...     load(f"{folder}/maf.pt").event_shape
        torch.Size([6])
    """
    content = _read(path, map_location)
    name, options, state = content["name"], content["options"], content["state"]
    try:
        version = entry(name).config_class.version
    except UnknownFlow as error:
        raise UnknownFlow(
            f"{path} holds a flow of {content['origin'] or 'another version of ffjord-bench'}, "
            f"which has an entry {name!r}: there is none here; load it first, by --plugin on the "
            "command line or flows.registry.add in Python"
        ) from error
    if content["version"] != version:
        warnings.warn(
            f"{path} is of version {content['version']} of {name}, which is at {version} here: its "
            "results may differ from those that it had when it was saved",
            stacklevel=2,
        )
    try:
        # The weights are overwritten: the draw is nobody's.
        with torch.random.fork_rng(devices=[]):
            flow = build(name, content["event_shape"], content["context_features"], **options)
    except ValidationError as error:
        raise NotLoadable(f"{path}: the options of {name} are others here: {error}") from error
    flow.to(getattr(torch, content["dtype"]))
    if state:
        flow.to(next(iter(state.values())).device)
    try:
        flow.load_state_dict(state)
    except RuntimeError as error:
        raise NotLoadable(
            f"{path}: the weights do not fit {name} as it is here: {error}"
        ) from error
    return flow.eval()


def _read(path: str | os.PathLike[str], map_location: torch.device | str | None) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location=map_location, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        if "deserialize object on" in str(error):
            raise NotLoadable(f"{path}: {error}") from error
        raise NotLoadable(f"{path} was not written by flows.save: {error}") from error
    if not (isinstance(content, dict) and content.get("format") == _FORMAT):
        raise NotLoadable(f"{path} was not written by flows.save, or by another version of it")
    return content
