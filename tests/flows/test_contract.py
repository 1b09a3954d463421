"""The contract of flows/base.py: every promise of benchmarks/check/flow.py, for every entry.

A new entry is covered without a change here. That the battery finds faults is shown by flows that
have one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import flows
from benchmarks.check import Check, Finding, run
from benchmarks.check.flow import CHECKS
from benchmarks.check.small_flows import smaller
from flows import FlowConfig


def own_systems() -> list[str]:
    """Our entries; of those that differ in nothing but the size of their networks, the first."""
    found: dict[FlowConfig, str] = {}
    for name in flows.ENTRIES:
        if "/" not in name:
            found.setdefault(flows.configure(name, smaller(name)), name)
    return list(found.values())


QUICK, SLOW = (
    [
        replace(check, cases=cases)
        for check in CHECKS
        if (cases := tuple(case for case in check.cases if check.slow(case) is slow))
    ]
    for slow in (False, True)
)


@pytest.mark.parametrize(
    "checks",
    [pytest.param(QUICK, id="quick"), pytest.param(SLOW, id="slow", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("name", own_systems())
def test_contract(name: str, checks: list[Check]) -> None:
    findings = list(run(checks, name))
    assert broken(findings) == {}
    # Each has at least a kind of event, of which more than a third of the promises speak.
    if checks is QUICK:
        assert sum(found.held > 0 for found in findings) > len(checks) / 3


def broken(findings: Iterable[Finding]) -> dict[str, list[str]]:
    return {found.check.name: found.failures for found in findings if found.failures}


# -- flows with a fault -----------------------------------------------------------------------


class Faulty(flows.Flow):
    """A scale and a shift of each feature, with one fault."""

    def __init__(self, event_shape: Sequence[int], fault: str) -> None:
        super().__init__(event_shape)
        self.traits = flows.Traits(
            density="exact",
            density_passes="1",
            sample_passes="1",
            jacobian="triangular",
            trains_on_data=fault != "wrong traits",
        )
        self.fault = fault
        self.log_scale = torch.nn.Parameter(0.1 * torch.randn(self.event_shape))
        self.shift = torch.nn.Parameter(0.1 * torch.randn(self.event_shape))
        self.offset = torch.zeros(self.event_shape)
        if fault == "unused parameter":
            self.unused = torch.nn.Parameter(torch.zeros(1))

    def _encode(self, x: Tensor, context: Tensor | None, **_: Any) -> tuple[Tensor, Tensor]:
        if self.fault == "tensor left behind":
            x = x + self.offset
        if self.fault == "changes its state":
            with torch.no_grad():
                self.shift += 0.01
        log_abs_det = self.log_scale.sum().expand(len(x))
        if self.fault == "wrong sign":
            log_abs_det = -log_abs_det
        if self.fault == "half the determinant":
            log_abs_det = log_abs_det / 2
        return (x - self.shift) * self.log_scale.exp(), log_abs_det

    def _decode(self, z: Tensor, context: Tensor | None, **_: Any) -> tuple[Tensor, Tensor]:
        if self.fault == "own noise":
            z = z + 1e-12 * torch.randn_like(z)
        log_abs_det = -self.log_scale.sum().expand(len(z))
        if self.fault == "half the determinant":
            log_abs_det = log_abs_det / 2
        return z * (-self.log_scale).exp() + self.shift, log_abs_det


def faulty(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """An entry of a flow with a fault, or with none."""

    class FaultyConfig(FlowConfig):
        @property
        def traits(self) -> flows.Traits:
            return Faulty((2,), fault).traits

        def build(self, event_shape: Sequence[int], context_features: int = 0) -> flows.Flow:
            if context_features:
                raise flows.InputError("takes no context")
            return Faulty(event_shape, fault)

    FaultyConfig.__name__ = "FaultyConfig"
    entry = SimpleNamespace(name="faulty", config_class=FaultyConfig, options={}, origin="")
    monkeypatch.setitem(flows.ENTRIES, "faulty", entry)  # type: ignore[misc]


def test_a_flow_without_a_fault_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    faulty(monkeypatch, "none")
    findings = list(run(QUICK, "faulty"))
    assert broken(findings) == {}
    assert sum(found.held > 0 for found in findings) > 20


@pytest.mark.parametrize(
    ("fault", "check", "words"),
    [
        ("wrong sign", "round_trip", "Tensor-likes are not close"),
        ("half the determinant", "log_determinant_is_autograds", "not close"),
        ("half the determinant", "integrates_to_one", "the integral is"),
        ("half the determinant", "samples_follow_the_density", "standard errors"),
        ("wrong traits", "traits_say_whether_it_trains_on_data", "trains_on_data is False"),
        ("unused parameter", "gradients_reach_every_parameter", "unused has no gradient"),
        ("tensor left behind", "no_tensor_is_left_behind", "meta"),
        ("own noise", "randomness_is_explicit", "samples of equal generators differ"),
        ("changes its state", "evaluation_changes_no_state", "not close|not equal"),
    ],
)
def test_a_fault_is_found(
    monkeypatch: pytest.MonkeyPatch, fault: str, check: str, words: str
) -> None:
    faulty(monkeypatch, fault)
    found = broken(run([each for each in CHECKS if each.name == check], "faulty"))
    assert re.search(words, "\n".join(found[check])), found


def test_each_promise_is_a_sentence() -> None:
    for check in CHECKS:
        assert check.promise.endswith(".")
        assert len(check.promise) < 100
