"""Looks: no two contestants alike, for every kind of colour vision as far as hues go."""

from __future__ import annotations

import base64
import io
import itertools
import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.markers import MarkerStyle
from PIL import Image

from benchmarks.report.figures.panels import draw_point, handles, legend, panels
from benchmarks.report.style import (
    SYSTEM_COLOURS,
    dashes,
    looks,
    new_figure,
    rc,
    variant_looks,
)
from benchmarks.report.svg import as_svg
from flows import ENTRIES

# Machado, Oliveira and Fernandes 2009, A physiologically-based model for simulation of color vision
# deficiency, Table 1, severity 1; in linear RGB.
_VISION = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
# sRGB to CIE XYZ, D65 (IEC 61966-2-1).
_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]],
)


def lab(colour: str, vision: str) -> np.ndarray:
    """CIE L*a*b* of a colour as it is seen."""
    value = np.array(to_rgb(colour))
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    seen = np.clip(_VISION[vision] @ linear, 0, 1)
    x, y, z = (
        np.cbrt(t) if t > 216 / 24389 else (24389 / 27 * t + 16) / 116
        for t in _XYZ @ seen / (_XYZ @ np.ones(3))
    )
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", _VISION)
def test_systems_differ_in_colour_for_everyone(vision: str) -> None:
    for one, other in itertools.combinations(SYSTEM_COLOURS.values(), 2):
        distance = np.linalg.norm(lab(one, vision) - lab(other, vision))
        # Several times what is just noticeable (about 2.3).
        assert distance > 15, (one, other, distance)


def test_no_two_entries_of_the_catalog_look_alike() -> None:
    found = looks(ENTRIES)
    assert set(found) == set(ENTRIES)
    pairs = [(look.colour, look.marker) for look in found.values()]
    assert len(set(pairs)) == len(ENTRIES)
    for look in found.values():
        assert MarkerStyle(look.marker).is_filled()


def test_a_system_has_one_hue_and_each_library_its_shade_and_marker() -> None:
    found = looks(ENTRIES)
    own = [name for name in SYSTEM_COLOURS if name in ENTRIES]
    assert [found[name].colour for name in own] == [SYSTEM_COLOURS[name] for name in own]
    # The suite's own systems are told apart without colour too.
    assert len({found[name].marker for name in own}) == len(own)
    for system in ("realnvp", "maf", "rqnsf-c", "rqnsf-ar"):
        libraries = ["", "nflows/", "zuko/", "normflows/", "torchflows/"]
        colours = [found[library + system].colour for library in libraries]
        assert len(set(colours)) == len(colours)
    for library in ("nflows", "zuko", "normflows", "torchflows"):
        markers = {found[f"{library}/{system}"].marker for system in ("realnvp", "maf", "rqnsf-c")}
        assert len(markers) == 1
    assert found["rqnsf-ar-power"].colour == found["rqnsf-ar"].colour
    assert found["made"].colour == found["maf-mog"].colour == found["maf"].colour


def test_one_look_a_flow_whatever_else_is_shown() -> None:
    names = ["ffjord", "maf", "zuko/nsf", "nflows/maf", "nice", "planar"]
    every = looks(names)
    assert len(set(every.values())) == len(names)
    for name in names:
        assert looks([name])[name] == every[name]
    many = looks([f"peer-{i}" for i in range(40)])
    assert len(set(many.values())) == 40


def test_variants_differ_from_each_other_and_from_every_flow() -> None:
    variants = {name: [f"{name}[{i}]" for i in range(12)] for name in ENTRIES}
    found = variant_looks(variants)
    assert len({(look.colour, look.marker, look.filled) for look in found.values()}) == len(found)
    for name, own in variants.items():
        assert len({found[variant].dashes for variant in own}) == len(own)
        base = looks([name])[name]
        assert found[own[0]] == base


def test_no_line_is_another_one_or_its_repetition() -> None:
    periods = [dashes(position) for position in range(1, 40)]
    for one, other in itertools.combinations(periods, 2):
        common = int(np.lcm(len(one), len(other)))
        assert one * (common // len(one)) != other * (common // len(other))


def test_images_keep_their_colours(tmp_path: Path) -> None:
    """As far as the eye goes: within a few of 256 levels on average, transparency exact."""
    axis = np.linspace(-3, 3, 80)
    bump = np.exp(-(axis[:, None] ** 2) - axis**2)
    dots = np.zeros((80, 80, 4))
    dots[::7, ::5] = (0.8, 0.4, 0.0, 1.0)
    figure = new_figure(4, 2)
    for ax, image in zip(figure.subplots(1, 2), (bump, dots), strict=True):
        ax.imshow(image, interpolation="none", cmap="viridis", vmin=0, vmax=1)
    svg = as_svg(figure, "images")
    found = [
        Image.open(io.BytesIO(base64.b64decode(part)))
        for part in re.findall(r"base64,([A-Za-z0-9+/=]+)", svg)
    ]
    assert [image.format for image in found] == ["WEBP", "WEBP"]
    assert "image-rendering" not in svg
    expected = mpl.colormaps["viridis"](bump, bytes=True).astype(float)
    gap = np.abs(np.asarray(found[0].convert("RGBA"), dtype=float) - expected)
    assert gap.mean() < 2
    assert gap.max() < 40
    alpha = np.asarray(found[1].convert("RGBA"))[..., 3]
    assert np.array_equal(alpha > 0, dots[..., 3] > 0)


def test_marks_are_named_and_contestants_told_apart_with_their_intervals(tmp_path: Path) -> None:
    names = ["maf", "maf[layers=2]"]
    found = variant_looks({"maf": names})
    figure, (ax,) = panels(1)
    ax.set_title("power")
    ax.set_xlabel("steps")
    ax.set_ylabel("NLL [nats]")
    # One colour: whose an interval is follows from where it lies.
    for name, x in zip(names, (1.0, 2.0), strict=True):
        draw_point(ax, (x, x - 0.1, x + 0.1), (-x, -x - 0.2, -x + 0.2), found[name])
    # Outside of the picture: not drawn, and no other mark's name.
    ax.plot([500.0, 1.5], [0.0, 0.0], color="#000000", marker="s", linestyle="none")
    ax.fill_between([1.0, 2.0], [np.nan, np.nan], [np.nan, np.nan], color=found["maf"].colour)
    ax.set_xlim(0, 3)
    legend(figure, handles(found, line=False))
    with mpl.rc_context(rc()):
        svg = as_svg(figure, "points")
    assert '<g class="panel" data-x="steps" data-y="NLL [nats]">' in svg
    named = re.findall(r'class="named[^>]* data-at="([^"]*)"[^>]*><title>(.*?)</title>', svg)
    assert sorted(named) == [
        ("1|\u22121", "maf: power"),
        ("2|\u22122", "maf[layers=2]: power"),
        ("||1.5|0", "power"),
    ]
    for number in ("0", "1"):
        # A mark and two intervals with their caps, which are a path.
        parts = re.split('<g class="(?:series|entry)"', svg[svg.index("<g ") :])
        own = "".join(part for part in parts if part.startswith(f' data-series="{number}"'))
        assert own.count("<use ") == 2  # One in the legend.
        assert sum(path.count("M") for path in re.findall(r'<path [^>]*d="([^"]*)"', own)) >= 6
        assert svg.count(f'class="entry" data-series="{number}"') == 1
    assert ">maf[layers=2]</text>" in svg
