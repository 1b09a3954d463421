"""Every flow by its name: name -> typed config -> flow.

A new system is one new file and one entry here.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flows.base import Flow, FlowError
from flows.config import FlowConfig

__all__ = ["ENTRIES", "Entry", "UnknownFlow", "build", "configure", "entry"]


class UnknownFlow(FlowError, KeyError):
    """No flow of that name; the message gives the nearest one."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class Entry:
    """A named flow: a system, or a system with the settings of a paper.

    Attributes:
        name: as given in a matrix file.
        where: ``module:ConfigClass`` of its config, imported when first needed.
        summary: one line for ``list flows``.
        source: the paper, with the section or table that the options come from.
        options: what differs from the config's defaults.
    """

    name: str
    where: str
    summary: str
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def config_class(self) -> type[FlowConfig]:
        """The class of the typed options."""
        module, _, name = self.where.partition(":")
        found: type[FlowConfig] = getattr(importlib.import_module(module), name)
        return found


_ALL = [
    Entry(
        "ffjord",
        "flows.continuous.ffjord:FFJORDConfig",
        "continuous flow, free-form dynamics, Hutchinson's trace estimator",
        "Grathwohl et al. 2018, arXiv:1810.01367",
    ),
    Entry(
        "nice",
        "flows.discrete.nice:NICEConfig",
        "additive couplings, which keep the volume, and one diagonal scale",
        "Dinh, Krueger and Bengio 2014, arXiv:1410.8516",
    ),
    Entry(
        "realnvp",
        "flows.discrete.realnvp:RealNVPConfig",
        "affine couplings with alternating halves",
        "Dinh, Sohl-Dickstein and Bengio 2016, arXiv:1605.08803",
    ),
    Entry(
        "glow",
        "flows.discrete.glow:GlowConfig",
        "actnorm, LU-parameterised linear map, affine coupling",
        "Kingma and Dhariwal 2018, arXiv:1807.03039",
    ),
    Entry(
        "maf",
        "flows.discrete.maf:MAFConfig",
        "masked autoregressive layers, order reversed from one to the next",
        "Papamakarios, Pavlakou and Murray 2017, arXiv:1705.07057",
    ),
    Entry(
        "maf-mog",
        "flows.discrete.maf:MAFConfig",
        "MAF whose base is an autoregressive mixture of Gaussians",
        "Papamakarios, Pavlakou and Murray 2017, arXiv:1705.07057, section 4.1",
        {"components": 10},
    ),
    Entry(
        "iaf",
        "flows.discrete.iaf:IAFConfig",
        "inverse autoregressive layers: samples in one pass, densities in D",
        "Kingma et al. 2016, arXiv:1606.04934",
    ),
    Entry(
        "rqnsf-c",
        "flows.discrete.rqnsf:RQNSFCouplingConfig",
        "couplings by rational-quadratic splines",
        "Durkan, Bekasov, Murray and Papamakarios 2019, arXiv:1906.04032",
    ),
    Entry(
        "rqnsf-ar",
        "flows.discrete.rqnsf:RQNSFAutoregressiveConfig",
        "autoregressive rational-quadratic splines",
        "Durkan, Bekasov, Murray and Papamakarios 2019, arXiv:1906.04032",
    ),
    Entry(
        "planar",
        "flows.discrete.planar:PlanarConfig",
        "each layer moves the latent along one direction; samples only",
        "Rezende and Mohamed 2015, arXiv:1505.05770",
    ),
    Entry(
        "radial",
        "flows.discrete.radial:RadialConfig",
        "each layer contracts or expands around a point; samples only",
        "Rezende and Mohamed 2015, arXiv:1505.05770",
    ),
    Entry(
        "sylvester",
        "flows.discrete.sylvester:SylvesterConfig",
        "planar layers of several directions at once; samples only",
        "van den Berg, Hasenclever, Tomczak and Welling 2018, arXiv:1803.05649",
    ),
    *(
        Entry(
            f"{library}/{system}",
            f"flows.peers.{library}:{library.capitalize()}Config",
            f"{summary} of the library {library}, as it is",
            source,
            {"system": system},
        )
        for library, source in {
            "nflows": "Durkan, Bekasov, Murray and Papamakarios 2020, doi:10.5281/zenodo.4296287",
            "zuko": "Rozet et al. 2022, doi:10.5281/zenodo.7625672",
            "normflows": "Stimper et al. 2023, doi:10.21105/joss.05361",
            "torchflows": "Nabergoj, github.com/davidnabergoj/torchflows",
        }.items()
        for system, summary in {
            "realnvp": "affine couplings",
            "maf": "masked affine autoregressive layers",
            "rqnsf-c": "spline couplings",
            "rqnsf-ar": "autoregressive splines",
        }.items()
    ),
]

ENTRIES: dict[str, Entry] = {item.name: item for item in _ALL}
"""Every entry by name, in the order in which ``list flows`` shows them."""


def entry(name: str) -> Entry:
    """The entry of a name.

    Raises:
        UnknownFlow: with the nearest name.
    """
    if name in ENTRIES:
        return ENTRIES[name]
    near = difflib.get_close_matches(name, ENTRIES, n=1, cutoff=0.0)[0]
    raise UnknownFlow(f"no flow is called {name!r}; did you mean {near!r}?")


def configure(name: str, options: Mapping[str, Any] | None = None) -> FlowConfig:
    """The typed options of a named flow.

    Args:
        name: an entry's name.
        options: what to change of the entry's own options.

    Returns:
        The config, complete and immutable.

    Raises:
        UnknownFlow: if there is no such name.
        pydantic.ValidationError: if an option is unknown or its value has the wrong type.
    """
    found = entry(name)
    return found.config_class.model_validate({**found.options, **(options or {})})


def build(name: str, event_shape: Sequence[int], context_features: int = 0, **options: Any) -> Flow:
    """Make a flow by name.

    Args:
        name: an entry's name.
        event_shape: shape of one datum.
        context_features: width of the context; 0 for none.
        **options: what to change of the entry's own options.

    Returns:
        An untrained flow.

    Raises:
        UnknownFlow: if there is no such name.
        pydantic.ValidationError: if an option is unknown or its value has the wrong type.
        FlowError: if the system cannot model events of that shape.

    Example:
        >>> import torch
        >>> flow = build("maf", event_shape=(6,), layers=5)
        >>> flow.log_prob(torch.zeros(3, 6)).shape
        torch.Size([3])
    """
    return configure(name, options).build(event_shape, context_features)
