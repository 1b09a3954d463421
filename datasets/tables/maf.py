"""The archive that Papamakarios et al. publish with the MAF paper, from which four sets come."""

from __future__ import annotations

from datasets.files.recognise import whole_file
from datasets.files.sources import File

__all__ = ["MAF", "MAF_ARCHIVE"]

_CHECKSUM = "md5:9b9c9b0375315ad270eba4ce80c093ab"
MAF_ARCHIVE = File(
    "data.tar.gz",
    whole_file(_CHECKSUM, name="data.tar.gz"),
    (
        "https://zenodo.org/records/1161203/files/data.tar.gz?download=1",
        "https://zenodo.org/api/records/1161203/files/data.tar.gz/content",
    ),
    _CHECKSUM,
    817_000_000,
)
MAF = "Papamakarios, Pavlakou and Murray 2017, arXiv:1705.07057; doi:10.5281/zenodo.1161203"
