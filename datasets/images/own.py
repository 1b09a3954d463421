"""A user's own images: a folder of them, or an array."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field

from datasets.base import SPLITS, Array, DataError, Dataset, Entry, make_dataset
from datasets.files.arrays import read_array
from datasets.files.untrusted import check_room, read_image, reading
from datasets.own import OwnConfig
from datasets.preprocessing import Dequantize
from datasets.stored import Alpha

__all__ = ["OwnImagesConfig", "read_folder"]

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
_CHANNELS = (1, 3)


def read_folder(folder: Path) -> Array:
    """The images below a folder in the order of their paths.

    Returns:
        uint8, shape ``(n, 1, height, width)`` if they are grey, ``(n, 3, height, width)`` if RGB.

    Raises:
        DataError: if there are none, or they differ in size or colours; the message names one.
        DataCorrupt: if one is damaged.
    """
    paths = sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file()
    )
    if not paths:
        raise DataError(f"{folder} holds no image; one ends in {', '.join(_SUFFIXES)}")
    images: list[Array] = []
    for path in paths:
        with reading(path, "image"), path.open("rb") as stream:
            image = read_image(stream)
            mode = image.mode
            pixels = np.asarray(image.convert("L") if mode == "1" else image)
            check_room(pixels.nbytes * (len(paths) - len(images)))
        if mode not in ("1", "L", "RGB"):
            raise DataError(
                f"{path} is of the mode {mode}, neither grey with 8 bits (L) nor RGB: convert it"
            )
        pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        if images and pixels.shape != images[0].shape:
            raise DataError(
                f"{path} has the shape {pixels.shape}, but {paths[0]} has {images[0].shape} "
                "(channels, height, width): all must be alike"
            )
        images.append(pixels)
    return np.stack(images)


class OwnImagesConfig(OwnConfig):
    """Your own images, all of one size: a folder (PNG, JPEG, ...), or an NPZ, NPY or HDF5 file.

    An array has the shape ``(n, height, width)``, ``(n, channels, height, width)`` or
    ``(n, height, width, channels)`` with one or three channels, and holds integers.
    """

    kind = "image"
    example = "my.npz"

    levels: int = Field(
        256, ge=2, le=256, description="of grey or of a colour: values are 0 to levels - 1"
    )
    alpha: Alpha = 0.05

    def read(self, path: Path) -> Array:
        """The images of a folder or file, uint8, shape ``(n, channels, height, width)``."""
        if path.is_dir():
            images = read_folder(path)
        elif path.suffix.lower() in (".npz", ".npy", ".h5", ".hdf5"):
            images = self._as_images(read_array(path, self.array, (3, 4)), path)
        else:
            raise DataError(f"{path}: images are a folder, or a file .npz, .npy, .h5 or .hdf5")
        outside = (images < 0) | (images >= self.levels)
        if outside.any():
            index = tuple(int(i) for i in np.argwhere(outside)[0])
            raise DataError(
                f"{path}, image {index[0] + 1}: the value {images[index]} is none of 0 to "
                f"{self.levels - 1}; set levels, or change the file"
            )
        return images.astype(np.uint8)

    @staticmethod
    def _as_images(array: Array, path: Path) -> Array:
        if array.dtype.kind not in "biu":
            raise DataError(
                f"{path} holds {array.dtype}: images are integers, 0 to levels - 1; for real "
                'numbers take name = "table"'
            )
        if array.ndim == 3:
            return array[:, None]
        if array.shape[1] in _CHANNELS:
            return array
        if array.shape[3] in _CHANNELS:
            return array.transpose(0, 3, 1, 2)
        raise DataError(
            f"{path} holds {array.shape}: neither the second nor the last axis has one or three "
            "channels"
        )

    def whole(self, name: str) -> Dataset:
        preprocessing = Dequantize(self.levels, self.alpha)
        paths = self.paths(name)
        parts = {split: self.read(path) for split, path in paths.items()}
        for split, images in parts.items():
            if images.shape[1:] != parts["train"].shape[1:]:
                raise DataError(
                    f"the images of {paths[split]} have the shape {images.shape[1:]}, "
                    f"those of {paths['train']} {parts['train'].shape[1:]}"
                )
        images = np.concatenate(list(parts.values()))
        division = self.divide({split: len(part) for split, part in parts.items()}, self.split)
        return make_dataset(
            name,
            self.kind,
            [np.ascontiguousarray(images[division[split]]) for split in SPLITS],
            hashes=self.file_hashes(paths),
            preprocessing=preprocessing,
            levels=self.levels,
        )


ENTRIES = [
    Entry(
        "images",
        OwnImagesConfig,
        "your own images of one size: path = a folder, or an NPZ, NPY or HDF5 file",
        "your own files",
    )
]
