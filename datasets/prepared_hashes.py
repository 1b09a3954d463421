"""What the prepared splits of sets that were at hand are, to the last bit.

The hashes are :func:`datasets.base.array_hash` of the splits in split 0, made from the files whose
checksums the table of sources has. Integer draws, sums in a fixed order and divisions make them, so
that they are the same on every machine. ``data verify`` compares with them.

Not here: sets whose files were not at hand (GAS, HEPMASS, MINIBOONE, BSDS300); CIFAR-10, whose
images have hashes of their own in :mod:`datasets.cifar10`; and BSDS300-style, whose images come out
of a JPEG decoder that may round differently elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping

from datasets.base import Split

__all__ = ["PREPARED_HASHES"]

PREPARED_HASHES: Mapping[str, Mapping[Split, str]] = {
    "power": {
        "train": "111551332901fa82383fc8dcf23272ed9041d4093038d072590cd968c3eea4d7",
        "validation": "1ec39d40a7f065d7b73a4a3429ed97d1568499cbc87a34a04a48dc5ba2bb8130",
        "test": "757abf86254a34c5c26f58882c0113d2f37392e304bdc5880bdf693f90a25178",
    },
    "magic": {
        "train": "4dfd5b139ae1cbd4029efc262f76fe15904953b8f456850cca50b64e39e2e648",
        "validation": "b083b1aa84b1821286ac969dbdefd4c5b0334d9f2dc46b780807e9a622274421",
        "test": "60f08440e002e2d378bc8b69362324c7fa64e6a284a9850c15bfbed5488975f8",
    },
    "protein": {
        "train": "9b2ae4aa90b1358d47062cbf615e518e39c492e6d1aee281874c6afbd0a2b347",
        "validation": "a6b1668dd9574a5486767c016fd3411c8bba87931095a395232473dd864dfc8f",
        "test": "2b85077d637f1d3f3b7f262ab93de8d5cb96bf16c35fc4b8e1133bc011e06035",
    },
    "keggundirected": {
        "train": "b1f0aaeeb833a76088939225ece3c4c4509df704b7613c06a5f8279ec4e24524",
        "validation": "1aaef0b2c30b3fee93deb9e9aed691003052896dc6181a832d320ded4ba168a2",
        "test": "55024c57ebea2bb5fb92abd316e9e0033b0ee8e705e01c7587b894063145e3bc",
    },
    "parkinsons": {
        "train": "8911398d403b4712badecb39781fed0f3e46dec797984859ece72e9e31549fef",
        "validation": "551fdde598bc427403b331d33b1e3f6df9945ded882634024ca5e109b89e3aba",
        "test": "f07c3bb456fe6ffac813a95cfc16f3d2a51d52f288b7f3c372bf82cbf938c915",
    },
    "optdigits": {
        "train": "8582ec4b6aba0030d46f8a97e0a872e3a12c85841525e426b7e050c06fff7ea1",
        "validation": "3e5523e0798afcc83191813f560883135a601f562f979c88f34340938ae19799",
        "test": "04b7e6d8b23b1f79a558a09914acb541c801bca13df2df5ffb618f39937485d6",
    },
    "mnist": {
        "train": "a96d5dfa77d4a11f97dbd5d548ee1b95728732e390f945c595d13b3430fafaeb",
        "validation": "1e66e8b6216e8bb86f1f8f69194040a678b984536287a188f8bcef704612933e",
        "test": "c1e336d807fdbb055f2b8cdb0943491b44a0d25b838ad0851128cdda2c6164c0",
    },
    "fashion-mnist": {
        "train": "9fbb805c31c86ec96e35b332442c63f6916a0c0740aec54527cf4a612ec13ca6",
        "validation": "ea375969ddff2e3b72f3726e7d6dfe883f9480b91b0177b5549261d7853f7659",
        "test": "3e6c70d3ce80310e581f2acdb60800b8f1e7922edc0f659150d05cf69ff2a394",
    },
    "omniglot": {
        "train": "fe1f49a3e6f16f9a74760b08890eb1c5bd6236be293382c99f9129cfa63c9b50",
        "validation": "cc04bebedc55657957b2b8093d9402ec52125b0136bb3bbd0f61ab64bc3ffcab",
        "test": "fa36e8a04a1c5c8c761c6a1f28fecbd9f979b0b57fa6a590c1da083126e0490d",
    },
    "freyfaces": {
        "train": "66ad6e409c3b56f65cd537cda537fbf3f1b79576040639d8b2a4fd59ff673b89",
        "validation": "6cb15c323d169e7d81eca6c8e4825ab5f9755f2f52b9b7955954a04c27da9217",
        "test": "8f91695e3286d541f7dec6c6b96bdac15c2e1399d38c20f649c7d18b35ee0a2b",
    },
}
"""By the catalog's name."""
