"""Matplotlib's SVG at a quarter of its size, for a page that holds many figures.

Positions to a tenth of a point and relative to each other; lines of one look as one path; each
marker's shape once; each look as a class that is named by what it says, so that a page has each
once; pictures as WebP.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from itertools import groupby

import numpy as np
from PIL import Image

__all__ = ["FONTS", "PIXELS", "compacted"]

SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
ElementTree.register_namespace("", SVG[1:-1])

FONTS = "'DejaVu Sans',Verdana,sans-serif"
"""Verdana has DejaVu's widths, where that is missing."""

PIXELS = "pixels"
"""The ``gid`` of an image whose pixels are to be seen."""

Element = ElementTree.Element
Shapes = dict[str, tuple[str, dict[str, str]]]
"""By id: the path of what is used in several places, and its style."""


def compacted(root: Element, name: str, frame: str) -> str:
    """The text of an SVG that matplotlib has drawn.

    Args:
        root: the parsed SVG; groups with a class are kept as they are.
        name: of the figure: what has an id gets one that no other figure has.
        frame: the beginning of ids that are kept.
    """
    shapes: Shapes = {
        path.get("id", ""): (path.get("d", ""), _style(path))
        for defs in root.iter(f"{SVG}defs")
        for path in defs.findall(f"{SVG}path")
    }
    clips = {clip.get("id", ""): clip for clip in root.iter(f"{SVG}clipPath")}
    # Panels are as white as the figure behind them.
    for patch in [group for group in root.iter(f"{SVG}g") if _is_white(group)][1:]:
        patch.clear()
    content = _wrapped(_merged(_flat(root, shapes, frame, {})))
    body = Element(f"{SVG}svg", {key: root.get(key, "") for key in ("width", "height", "viewBox")})
    body.extend(content)
    _share_shapes(body, _prefix(name), clips)
    rules = _classes(body)
    text = ElementTree.tostring(body, encoding="unicode").replace(" />", "/>")
    head, start, rest = text.partition(">")
    style = "".join(f".{key}{{{rule}}}" for key, rule in sorted(rules.items()))
    font = f' font-family="{FONTS}" stroke-linejoin="round"'
    return f"{head}{font}{start}<style>{style}</style>{rest}"


def _prefix(name: str) -> str:
    """Four letters and digits that stand for a name, the first a letter."""
    return _code(name, 4)


def _code(text: str, length: int) -> str:
    digits = base64.b32encode(hashlib.sha256(text.encode()).digest()).decode().lower()
    return digits[re.search("[a-z]", digits).start() :][:length]  # type: ignore[union-attr]


def _is_white(group: Element) -> bool:
    return group.get("id", "").startswith("patch_") and [_style(path) for path in group] == [
        {"fill": "#ffffff"}
    ]


def _style(element: Element) -> dict[str, str]:
    pairs = (part.partition(":") for part in element.get("style", "").split(";"))
    found = {key.strip(): value.strip() for key, _, value in pairs if value}
    # Said once, for all of a figure; and what is drawn unsampled is to be scaled smoothly.
    found.pop("font-family", None)
    found.pop("image-rendering", None)
    return found


# -- the tree -----------------------------------------------------------------------------------

# What is no larger is a marker, drawn in many places.
_LARGEST_MARKER = 20.0


def _flat(group: Element, shapes: Shapes, frame: str, inherited: dict[str, str]) -> list[Element]:
    """A group's content without groups that say nothing."""
    found: list[Element] = []
    held: list[Element] = []
    for child in group:
        kind = child.tag.removeprefix(SVG)
        attributes = {**inherited}
        if "clip-path" in child.attrib:
            attributes["clip-path"] = child.attrib["clip-path"]
        if kind == "g":
            inner = _flat(child, shapes, frame, attributes)
            if child.get("id", "").startswith("matplotlib.axis"):
                # What is drawn alike is side by side: grid, ticks, then words.
                inner.sort(key=lambda part: (part.tag == f"{SVG}text", _look(part)))
            kept = {key: child.attrib[key] for key in _KEPT if key in child.attrib}
            if child.get("id", "").startswith(frame):
                kept["id"] = child.attrib["id"]
            if kept and kept == (found[-1].attrib if found else None) and "data-at" not in kept:
                # Marks and intervals of one contestant, one after the other.
                found[-1].extend(inner)
            elif kept and inner:
                held.append(Element(child.tag, kept))
                held[-1].extend(inner)
                found.append(held[-1])
            else:
                found += inner
        elif kind == "path":
            found.append(_path(_parsed(child.get("d", "")), _style(child), attributes))
        elif kind == "use":
            found.append(_used(child, shapes, attributes))
        elif kind == "image":
            found.append(_image(child, frame, attributes))
        elif kind == "text":
            found.append(_text(child))
        elif kind == "title":
            found.append(child)
    for each in held:
        each[:] = _wrapped(_merged(list(each)))
        # A group in a group.
        if (
            len(each) == 1
            and each[0].tag == each.tag
            and not each.attrib.keys() & each[0].attrib.keys()
        ):
            (inner_group,) = each
            each.attrib |= inner_group.attrib
            each[:] = list(inner_group)
    return found


_KEPT = ("class", "data-series", "data-at", "data-x", "data-y", "transform")


def _used(use: Element, shapes: Shapes, attributes: dict[str, str]) -> Element:
    path, own = shapes[use.get(_LINK, "")[1:]]
    style = {**_style(use), **own}
    parts = _parsed(path)
    place = float(use.get("x", 0)), float(use.get("y", 0))
    if not any(kind in "Zz" for kind, _ in parts):
        # Ticks and caps are lines.
        return _path(_moved(parts, place), {**style, "fill": "none"}, attributes)
    if max(np.abs(points).max(initial=0) for _, points in parts) > _LARGEST_MARKER:
        return _path(_moved(parts, place), style, attributes)
    x, y = (_number(round(value * 10), 10) for value in place)
    found = Element(f"{SVG}use", {"shape": _written(parts, 100), "x": x, "y": y, **attributes})
    found.set("style", _said(style))
    return found


def _text(text: Element) -> Element:
    if len(text):
        # A formula, letter by letter.
        return text
    found = Element(text.tag)
    _place(found, text)
    found.set("style", _said(_style(text)))
    found.text = "".join(text.itertext()).strip()
    return found


def _image(image: Element, frame: str, attributes: dict[str, str]) -> Element:
    found = Element(image.tag)
    _place(found, image)
    if image.get("id", "").startswith(frame):
        found.set("id", image.attrib["id"])
    seen = image.get("id", "") == PIXELS
    if seen:
        found.set("style", "image-rendering:pixelated")
    found.set("href", _webp(image.get(_LINK, ""), exact=seen))
    # Bounds on the image itself would be moved with it.
    held = Element(f"{SVG}g", attributes)
    held.append(found)
    return held


def _place(found: Element, drawn: Element) -> None:
    for key in ("x", "y", "width", "height"):
        if (value := drawn.get(key)) is not None:
            found.set(key, _short(float(value)))
    value = drawn.get("transform", "rotate(-0 ")
    if not value.startswith("rotate(-0 "):
        # Scales need more digits than places.
        found.set("transform", re.sub(r"-?\d+\.\d+", lambda each: f"{float(each[0]):.5g}", value))


def _webp(address: str, exact: bool) -> str:
    image = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGBA")
    out = io.BytesIO()
    opaque = image.getchannel("A").getextrema() == (255, 255)
    if opaque and exact:
        image.convert("RGB").save(out, "webp", lossless=True, method=6)
    elif opaque:
        image.convert("RGB").save(out, "webp", quality=45, method=6)
    else:
        # Points in one colour: their edges would suffer.
        image.save(out, "webp", lossless=True, method=6)
    return f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode()}"


# -- what is alike ------------------------------------------------------------------------------


def _look(element: Element) -> tuple[str, ...]:
    return element.tag, element.get("style", ""), element.get("clip-path", "")


def _merged(elements: Sequence[Element]) -> list[Element]:
    """Lines of one look as one path: nothing of them is filled or shines through."""
    found: list[Element] = []
    for (tag, style, _), alike in groupby(elements, _look):
        group = list(alike)
        if tag == f"{SVG}path" and "fill:none" in style and "opacity" not in style:
            group[0].set("d", "".join(path.get("d", "") for path in group))
            found.append(group[0])
        else:
            found += group
    return found


def _wrapped(elements: Sequence[Element]) -> list[Element]:
    """What neighbours share, a panel's bounds and a look, as a group's."""
    for attribute, least in (("style", 3), ("clip-path", 2)):
        found: list[Element] = []
        values = [each.get(attribute) for each in elements]
        for value, group in groupby(zip(values, elements, strict=True), lambda pair: pair[0]):
            alike = [each for _, each in group]
            # Bounds on a mark itself would be moved with it.
            marks = attribute == "clip-path" and any(each.tag == f"{SVG}use" for each in alike)
            if value is None or (len(alike) < least and not marks):
                found += alike
                continue
            held = Element(f"{SVG}g", {attribute: value})
            for each in alike:
                del each.attrib[attribute]
            # Bounds go further up.
            clips = {each.get("clip-path") for each in alike}
            if attribute == "style" and len(clips) == 1 and (clip := clips.pop()):
                held.set("clip-path", clip)
                for each in alike:
                    del each.attrib["clip-path"]
            held.extend(alike)
            found.append(held)
        elements = found
    return list(elements)


def _share_shapes(root: Element, prefix: str, clips: dict[str, Element]) -> None:
    """Markers and bounds under ids of this figure's own, each once."""
    ids: dict[str, str] = {}
    defs = Element(f"{SVG}defs")
    for element in root.iter():
        if (shape := element.attrib.pop("shape", None)) is not None:
            if shape not in ids:
                ids[shape] = f"{prefix}{len(ids)}"
                ElementTree.SubElement(defs, f"{SVG}path", {"id": ids[shape], "d": shape})
            element.attrib = {"href": f"#{ids[shape]}", **element.attrib}
        if (clip := element.get("clip-path")) is not None:
            old = clip[5:-1]
            if old not in ids:
                ids[old] = f"{prefix}{len(ids)}"
                made = ElementTree.SubElement(defs, f"{SVG}clipPath", {"id": ids[old]})
                (area,) = clips[old]
                for key, value in area.attrib.items():
                    area.set(key, _short(float(value)) if key != "d" else value)
                area.tail = None
                made.append(area)
            element.set("clip-path", f"url(#{ids[old]})")
    if len(defs):
        root.insert(0, defs)


def _classes(root: Element) -> dict[str, str]:
    """Looks as classes: the rule of each."""
    rules: dict[str, str] = {}
    for element in root.iter():
        style = element.attrib.pop("style", None)
        if style:
            key = _code(style, 5)
            assert rules.setdefault(key, style) == style
            element.set("class", " ".join(filter(None, (element.get("class"), key))))
    return rules


def _said(style: dict[str, str]) -> str:
    return ";".join(f"{key}:{value}" for key, value in style.items())


# -- numbers ------------------------------------------------------------------------------------

Parts = list[tuple[str, "np.ndarray[tuple[int, int], np.dtype[np.float64]]"]]
_POINTS = {"M": 1, "L": 1, "Q": 2, "C": 3, "Z": 0, "z": 0}
# Of a straight stretch only the ends are needed: what strays less, in points, is straight.
_STRAIGHT = 0.4


def _parsed(path: str) -> Parts:
    """Commands with their points, as matplotlib writes them: absolute."""
    found: Parts = []
    for kind, words in re.findall(r"([MLQCZz])([^MLQCZz]*)", path):
        numbers = np.array(words.split(), dtype=float).reshape(-1, 2)
        assert len(numbers) == _POINTS[kind]
        found.append((kind, numbers))
    return found


def _moved(parts: Parts, place: tuple[float, float]) -> Parts:
    return [(kind, points + place) for kind, points in parts]


def _path(parts: Parts, style: dict[str, str], attributes: dict[str, str]) -> Element:
    found = Element(f"{SVG}path", {"d": _written(_straightened(parts), 10), **attributes})
    found.set("style", _said(style))
    return found


def _straightened(parts: Parts) -> Parts:
    found: Parts = []
    for lines, group in groupby(parts, lambda part: part[0] in "ML"):
        stretch = list(group)
        if not lines or len(stretch) < 3:
            found += stretch
            continue
        starts = [place for place, (kind, _) in enumerate(stretch) if kind == "M"]
        for start, end in zip(starts or [0], [*starts[1:], len(stretch)], strict=False):
            points = np.array([point[0] for _, point in stretch[start:end]])
            kept = _needed(points)
            found += [stretch[start + place] for place in kept]
    return found


def _needed(points: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> list[int]:
    """Which points of a polyline it takes (Ramer 1972; Douglas and Peucker 1973)."""
    kept = {0, len(points) - 1}
    waiting = [(0, len(points) - 1)]
    while waiting:
        first, last = waiting.pop()
        if last - first < 2:
            continue
        along = points[last] - points[first]
        away = points[first + 1 : last] - points[first]
        length = float(along @ along)
        share = np.clip(away @ along / length, 0, 1) if length else np.zeros(len(away))
        far = np.hypot(*(away - share[:, None] * along).T)
        if far.max() > _STRAIGHT:
            middle = first + 1 + int(far.argmax())
            kept.add(middle)
            waiting += [(first, middle), (middle, last)]
    return sorted(kept)


def _written(parts: Parts, scale: int) -> str:
    """A path relative to itself, in parts of ``1 / scale``; errors do not add up."""
    words: list[str] = []
    at = start = np.zeros(2, dtype=int)
    before = ""
    for kind, points in parts:
        if kind in "Zz":
            words.append("z")
            at, before = start, "z"
            continue
        places = np.rint(points * scale).astype(int)
        if kind == "M":
            start = places[0]
            steps, letter = places, "M"
        else:
            steps, letter = places - at, kind.lower()
            if kind == "L" and not steps.any() and before in ("l", "h", "v"):
                continue
            if kind == "L" and not steps.all():
                letter, steps = ("h", steps[:, :1]) if steps[0, 0] else ("v", steps[:, 1:])
        at = places[-1]
        numbers = _joined(_number(int(value), scale) for value in steps.ravel())
        if letter == before and letter != "M":
            words.append(numbers if numbers[0] == "-" else f" {numbers}")
        else:
            words.append(letter + numbers)
        before = letter
    return "".join(words)


def _joined(numbers: Iterable[str]) -> str:
    text = ""
    for number in numbers:
        text += number if not text or number[0] == "-" else f" {number}"
    return text


def _number(value: int, scale: int) -> str:
    text = f"{value / scale:.2f}".rstrip("0").rstrip(".")
    text = re.sub(r"^(-?)0\.", r"\1.", text)
    return "0" if text in ("-0", "") else text


def _short(value: float) -> str:
    return _number(round(value * 10), 10)
