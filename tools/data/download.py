"""Downloads the parts of a dataset that have a scriptable source: resumable, checked, never overwriting."""

from __future__ import annotations

import hashlib
import http.client
import shutil
import tarfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from datasets import DATASETS
from datasets.pieces import Download, Piece
from datasets.roots import dataset_folder
from datasets.sources import SOURCES
from utils.errors import RunError, UserError
from utils.files import is_terminal

WORK = ".download"
CHUNK = 1 << 20
TIMEOUT = 60


def download(names: list[str], root: str) -> None:
    """Fetches the missing pieces of the datasets into `root` and prints what must be fetched by hand. Raises RunError."""
    for name in names:
        if name not in SOURCES:
            raise UserError(f"{name}: has no download; it is bundled or comes from PyPI (see DATASET.md)")
        try:
            folder = dataset_folder(name, root)
        except UserError:
            folder = Path(root) / DATASETS[name].folder
        by_address: dict[str, list[Piece]] = {}
        for piece in SOURCES[name].pieces:
            if piece.present(folder):
                print(f"{name}: {folder / piece.path} already exists")
            elif piece.download:
                by_address.setdefault(piece.download.url, []).append(piece)
            else:
                print(f"{name}: {folder / piece.path} must be fetched by hand: {piece.page} ({piece.note})")
        for pieces in by_address.values():
            bring(pieces, folder)
            for piece in pieces:
                print(f"{name}: {folder / piece.path} fetched")


def bring(pieces: list[Piece], folder: Path) -> None:
    """Fetches the one URL of `pieces` and moves each into place."""
    source = pieces[0].download
    if source is None:
        raise ValueError(f"{pieces[0].path} has no scriptable source")
    work = folder / WORK
    work.mkdir(parents=True, exist_ok=True)
    file = fetch(source, work)
    if not source.member:
        _put(file, folder / pieces[0].path)
    else:
        unpacked = work / "unpacked"
        shutil.rmtree(unpacked, ignore_errors=True)
        unpack(file, unpacked)
        if source.inner:
            unpack(unpacked / source.inner, unpacked)
        for piece in pieces:
            member = unpacked / (piece.download.member if piece.download else "")
            if not member.exists():
                raise RunError(f"{file}: the archive has no {member.relative_to(unpacked)}; the archive is kept for inspection")
            _put(member, folder / piece.path)
        shutil.rmtree(unpacked)
        file.unlink()
    if not any(work.iterdir()):
        work.rmdir()


def fetch(source: Download, work: Path) -> Path:
    """The whole, checked file in `work`; continues a partial file of an earlier call.

    Raises RunError if the source fails, or if the checksum differs (the file is then deleted).
    """
    name = Path(urllib.parse.urlparse(source.url).path).name
    whole, part, tag = work / name, work / f"{name}.part", work / f"{name}.tag"
    if not whole.exists():
        try:
            _continue(source.url, part, tag)
        except (OSError, http.client.HTTPException) as error:
            reason = f"{error.code} {error.reason}" if isinstance(error, urllib.error.HTTPError) else error
            raise RunError(f"{source.url}: {reason}; run again to continue, or put the file at {whole} yourself") from error
        part.rename(whole)
        tag.unlink(missing_ok=True)
    if source.checksum:
        kind, _, expected = source.checksum.partition(":")
        with whole.open("rb") as file:
            actual = hashlib.file_digest(file, kind).hexdigest()
        if actual != expected:
            whole.unlink()
            raise RunError(
                f"{source.url}: its {kind} is {actual}, not {expected}; the file was deleted; run again to fetch it anew"
            )
    return whole


def _continue(url: str, part: Path, tag: Path) -> None:
    """Appends the missing rest to `part`, or starts over if the server cannot continue or its file has changed."""
    headers = {"User-Agent": "sharpzo"}
    have = part.stat().st_size if part.exists() else 0
    if have and tag.exists():
        headers |= {"Range": f"bytes={have}-", "If-Range": tag.read_text()}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        # The part is already the whole file, or longer.
        if error.code != 416:
            raise
        part.unlink()
        return _continue(url, part, tag)
    with response:
        continued = getattr(response, "status", None) == 206
        if not continued:
            have = 0
            # A weak tag does not promise the same bytes, and without a tag a download cannot be continued safely.
            strong = response.headers.get("ETag", "")
            mark = strong if strong and not strong.startswith("W/") else response.headers.get("Last-Modified", "")
            tag.unlink(missing_ok=True)
            if mark:
                tag.write_text(mark)
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with (
            part.open("ab" if continued else "wb") as file,
            tqdm(total=total, initial=have, desc=part.stem, unit="B", unit_scale=True, disable=not is_terminal()) as bar,
        ):
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and part.stat().st_size != total:
        raise OSError(f"the connection ended after {part.stat().st_size} of {total} bytes")
    return None


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a tar or zip archive, refusing members that would leave `folder`. Raises RunError for a damaged archive."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                for member in _progress(file.infolist(), archive):
                    file.extract(member, folder)
        else:
            with tarfile.open(archive) as file:
                for member in _progress(file, archive):
                    file.extract(member, folder, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise RunError(f"{archive}: cannot be unpacked: {error}; delete it to fetch it anew") from error


def _progress(members: Iterable[Any], archive: Path) -> Iterable[Any]:
    return tqdm(members, desc=f"unpacking {archive.name}", unit="file", disable=not is_terminal())


def _put(source: Path, target: Path) -> None:
    if target.exists():
        raise RunError(f"{target}: appeared during the download; it is left unchanged")
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)
