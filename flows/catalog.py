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
        remark: what whoever reads its results must know, where they come of a fault of another
            library's; one sentence, or nothing.
    """

    name: str
    where: str
    summary: str
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)
    remark: str = ""

    @property
    def config_class(self) -> type[FlowConfig]:
        """The class of the typed options."""
        module, _, name = self.where.partition(":")
        found: type[FlowConfig] = getattr(importlib.import_module(module), name)
        return found


_FFJORD = "flows.continuous.ffjord:FFJORDConfig"
_IMAGE_FFJORD = "flows.continuous.image:ImageFFJORDConfig"
_FFJORD_CODE = "Grathwohl et al. 2018, arXiv:1810.01367; settings of the official code, "

# The tabular hidden widths, blocks and nonlinearities are those listed in the paper's appendix; for
# BSDS300 sources differ between softplus, taken here, and tanh.
_FFJORD_PRESETS = [
    Entry(
        "ffjord-toy",
        _FFJORD,
        "FFJORD for two-dimensional toy data, exact trace",
        _FFJORD_CODE + "train_toy.py",
        {"end_time": 0.5, "trace": "exact"},
    ),
    *(
        Entry(
            f"ffjord-{name}",
            _FFJORD,
            f"FFJORD for {name.upper()}",
            _FFJORD_CODE + "train_tabular.py; hidden widths and blocks of the paper's appendix",
            {
                "hidden": hidden,
                "activation": activation,
                "blocks": blocks,
                "atol": 1e-8,
                "rtol": 1e-6,
            },
        )
        for name, hidden, activation, blocks in (
            ("power", (60, 60, 60), "tanh", 5),
            ("gas", (160, 160, 160), "tanh", 5),
            ("hepmass", (210, 210), "softplus", 10),
            ("miniboone", (860, 860), "softplus", 1),
            ("bsds300", (1260, 1260, 1260), "softplus", 2),
        )
    ),
    *(
        Entry(
            f"ffjord-{name}{'-multiscale' if multiscale else ''}",
            _IMAGE_FFJORD,
            f"FFJORD for {title}, {'several scales' if options['multiscale'] else 'one scale'}",
            _FFJORD_CODE + f"train_cnf.py{architecture}, whose logit has alpha = 1e-6{alpha}",
            {"noise": "rademacher", **options},
        )
        for name, title, alpha in (
            ("mnist", "MNIST", ""),
            # The logit is the data set's, and so are its options.
            ("cifar10", "CIFAR-10", ": give the data set that option, its own is RealNVP's 0.05"),
        )
        for multiscale, architecture, options in (
            (
                False,
                " (its default dims, strides and blocks; the paper's own single flow has "
                "convolutions 64-64-128-128 and their mirror)",
                {
                    "multiscale": False,
                    "hidden": (8, 32, 32, 8),
                    "strides": (2, 2, 1, -2, -2),
                    "blocks": 1,
                },
            ),
            (True, " with dims 64,64,64 and 2 blocks", {"multiscale": True}),
        )
    ),
    Entry(
        "cnf-exact",
        _FFJORD,
        "continuous flow with the exact trace, D Jacobian products an evaluation",
        "Chen et al. 2018, arXiv:1806.07366, section 4",
        {"trace": "exact"},
    ),
]

_REMARKS = {
    "nflows/realnvp": (
        "Each coupling of nflows scales by sigmoid(s + 2) + 0.001, at most 1.001, from data to "
        "latent, so that no density rises above the base's mode: the NLL of eight layers is at "
        "least 0.91 nats a dimension, whatever the data."
    ),
    "nflows/maf": (
        "Each autoregressive layer of nflows starts with scales near log 2 from data to latent, "
        "not 1, so that an untrained flow of eight layers contracts data about twentyfold and its "
        "samples reach hundreds and more."
    ),
    "normflows/maf": (
        "The masked affine layer of normflows has its one pass from latent to data and scales by "
        "at most 1.001 there, so that a density, as its authors train it, takes D passes a layer "
        "(an IAF by other names), and cannot contract the data."
    ),
    "torchflows/ffjord": (
        "The log-determinant of torchflows' continuous flow has no gradient unless "
        "trace_gradient is set, so that its training does not maximise the likelihood."
    ),
}
"""Of entries of other libraries, whose results come of a fault of theirs."""

_ALL = [
    Entry(
        "ffjord",
        "flows.continuous.ffjord:FFJORDConfig",
        "continuous flow, free-form dynamics, Hutchinson's trace estimator",
        "Grathwohl et al. 2018, arXiv:1810.01367",
    ),
    Entry(
        "ffjord-image",
        "flows.continuous.image:ImageFFJORDConfig",
        "FFJORD over images, convolutional dynamics, one scale or several",
        "Grathwohl et al. 2018, arXiv:1810.01367, section 4.2",
        {"noise": "rademacher"},
    ),
    *_FFJORD_PRESETS,
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
    Entry(
        "realnvp-image",
        "flows.discrete.image_realnvp:ImageRealNVPConfig",
        "RealNVP on images: checkerboard and channel-wise couplings at several scales",
        "Dinh, Sohl-Dickstein and Bengio 2016, arXiv:1605.08803",
    ),
    Entry(
        "glow-image",
        "flows.discrete.image_glow:ImageGlowConfig",
        "Glow on images: 1 x 1 convolutions and learned priors at several scales",
        "Kingma and Dhariwal 2018, arXiv:1807.03039",
    ),
    # Settings of the papers. The networks' widths are those for POWER and GAS; the larger sets
    # of MAF's experiments have hidden = [512, 512].
    *(
        Entry(
            name,
            where,
            summary,
            "Papamakarios, Pavlakou and Murray 2017, arXiv:1705.07057, section 4 and appendix D",
            {"hidden": (100, 100), "batch_norm": True, **options},
        )
        for name, where, summary, options in [
            (
                f"{system}-{layers}",
                f"flows.discrete.{system}:{config}",
                f"{title} with {layers} layers, as in MAF's experiments",
                {"layers": layers, **more},
            )
            for system, config, title, more in [
                ("realnvp", "RealNVPConfig", "RealNVP", {"separate_networks": True}),
                ("maf", "MAFConfig", "MAF", {}),
            ]
            for layers in (5, 10)
        ]
    ),
    Entry(
        "made",
        "flows.discrete.maf:MAFConfig",
        "one masked autoregressive layer with Gaussian conditionals",
        "Germain et al. 2015, arXiv:1502.03509; settings of arXiv:1705.07057, section 4",
        {"hidden": (100, 100), "layers": 1},
    ),
    Entry(
        "maf-mog-5",
        "flows.discrete.maf:MAFConfig",
        "MAF with 5 layers and a mixture base, as in MAF's experiments",
        "Papamakarios, Pavlakou and Murray 2017, arXiv:1705.07057, section 4",
        {"hidden": (100, 100), "batch_norm": True, "layers": 5, "components": 10},
    ),
    Entry(
        "nice-mnist",
        "flows.discrete.nice:NICEConfig",
        "NICE with 4 couplings of 5 layers of 1000, as for MNIST",
        "Dinh, Krueger and Bengio 2014, arXiv:1410.8516, section 5.1",
        {"layers": 4, "hidden": (1000,) * 5},
    ),
    *(
        Entry(
            f"rqnsf-{form}-{dataset}",
            f"flows.discrete.rqnsf:{config}",
            f"{title} with the settings for {dataset.upper()}",
            "Durkan et al. 2019, arXiv:1906.04032, section 5.1, and the authors' experiments",
            {
                "layers": 10,
                "hidden": (256,),
                "residual_blocks": 2,
                "bins": 8,
                "tail_bound": 3.0,
                "linear": True,
                "dropout": dropout,
            },
        )
        for form, config, title in [
            ("c", "RQNSFCouplingConfig", "spline couplings"),
            ("ar", "RQNSFAutoregressiveConfig", "autoregressive splines"),
        ]
        for dataset, dropout in {
            "power": 0.0,
            "gas": 0.1,
            "hepmass": 0.2,
            "miniboone": 0.2,
            "bsds300": 0.2,
        }.items()
    ),
    Entry(
        "glow-cifar10",
        "flows.discrete.image_glow:ImageGlowConfig",
        "Glow with 3 scales of 32 steps and 512 channels, as for CIFAR-10",
        "Kingma and Dhariwal 2018, arXiv:1807.03039, Table 4 and the authors' code",
        {"levels": 3, "steps": 32, "channels": 512},
    ),
    Entry(
        "realnvp-cifar10",
        "flows.discrete.image_realnvp:ImageRealNVPConfig",
        "RealNVP with 8 residual blocks of 64 channels, as for CIFAR-10",
        "Dinh, Sohl-Dickstein and Bengio 2016, arXiv:1605.08803, section 4.1",
        {"levels": 3, "blocks": 8, "channels": 64},
    ),
    *(
        Entry(
            f"{library}/{system}",
            f"flows.peers.{library}:{library.capitalize()}Config",
            f"{summary} of the library {library}, as it is",
            source,
            {"system": system},
            _REMARKS.get(f"{library}/{system}", ""),
        )
        for library, source in {
            "nflows": "Durkan, Bekasov, Murray and Papamakarios 2020, doi:10.5281/zenodo.4296287",
            "zuko": "Rozet et al. 2022, doi:10.5281/zenodo.7625672",
            "normflows": "Stimper et al. 2023, doi:10.21105/joss.05361",
            "torchflows": "Nabergoj, github.com/davidnabergoj/torchflows",
            "flowjax": "Ward, github.com/danielward27/flowjax; compiled by JAX",
        }.items()
        for system, summary in {
            "realnvp": "affine couplings",
            "maf": "masked affine autoregressive layers",
            "rqnsf-c": "spline couplings",
            "rqnsf-ar": "autoregressive splines",
        }.items()
    ),
    *(
        Entry(
            f"{library}/ffjord",
            f"flows.peers.{library}{'' if library == 'diffrax' else '_ffjord'}:{config}",
            f"continuous flow with the solver, trace and gradient of the library {library}, "
            f"{besides}",
            source,
            remark=_REMARKS.get(f"{library}/ffjord", ""),
        )
        for library, config, besides, source in [
            (
                "zuko",
                "ZukoFFJORDConfig",
                "and our network",
                "Rozet et al. 2022, doi:10.5281/zenodo.7625672; its CNF",
            ),
            (
                "torchflows",
                "TorchflowsFFJORDConfig",
                "whose log-determinant has no gradient unless mended, and our network",
                "Nabergoj, github.com/davidnabergoj/torchflows; its FFJORD",
            ),
            (
                "diffrax",
                "DiffraxFFJORDConfig",
                "compiled by JAX, and our network",
                "Kidger 2021, arXiv:2202.02435; github.com/patrick-kidger/diffrax",
            ),
        ]
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
