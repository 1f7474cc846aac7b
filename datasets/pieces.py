"""What a dataset's source consists of: the files a run needs, and the addresses that have them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Download:
    """One address. `checksum`: "md5:…" or "sha256:…", or "". `member`: the archive member to extract ("" for a plain file).

    `inner`: an archive inside the archive that holds the member. `origin`: whose list has this address, or "".
    """

    url: str
    checksum: str = ""
    member: str = ""
    inner: str = ""
    origin: str = "torchvision 0.29"


@dataclass(frozen=True)
class Piece:
    """A file or folder below the dataset's folder. `page`: its official source. `download`: None if a person must fetch it.

    `other_path`: the released code's name for it.
    """

    path: str
    page: str
    download: Download | None = None
    note: str = ""
    other_path: str = ""

    def present(self, folder: Path) -> bool:
        return (folder / self.path).exists() or bool(self.other_path and (folder / self.other_path).exists())


@dataclass(frozen=True)
class Source:
    """`title` as in papers; `terms` of use; `split` in words; `pieces` a run needs; `annotations` that may lie there unused."""

    title: str
    terms: str
    split: str
    pieces: tuple[Piece, ...]
    annotations: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
