"""Downloads, from a server of this machine: resumed, checked, unpacked into CoOp's layout, without overwriting existing files."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from datasets.pieces import Download, Piece, Source
from datasets.sources import SOURCES
from tools.data.download import WORK, bring, download, fetch
from utils.errors import RunError


class Server:
    """Files by path over HTTP, with strong tags and ranges; `cut` ends each answer after that many bytes."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: int | None = None
        self.ranges: list[str | None] = []
        self.tags = True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = outer.files.get(self.path)
                if body is None:
                    return self.send_error(404)
                tag = f'"{hashlib.md5(body).hexdigest()}"'
                asked = self.headers.get("Range")
                outer.ranges.append(asked)
                start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
                if self.headers.get("If-Range", tag) != tag or not outer.tags:
                    start = 0
                if start and start >= len(body):
                    return self.send_error(416)
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(body) - start))
                if outer.tags:
                    self.send_header("ETag", tag)
                self.end_headers()
                self.wfile.write(body[start:][: outer.cut])
                return None

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/{name}"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def tar(files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def md5(content: bytes) -> str:
    return f"md5:{hashlib.md5(content).hexdigest()}"


CONTENT = bytes(range(256)) * 40


def test_file_is_fetched_and_checked(server: Server, tmp_path: Path) -> None:
    server.files["/data.bin"] = CONTENT
    assert fetch(Download(server.url("data.bin"), md5(CONTENT)), tmp_path).read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["data.bin"]


def test_interrupted_download_is_resumed(server: Server, tmp_path: Path) -> None:
    server.files["/data.bin"] = CONTENT
    source = Download(server.url("data.bin"), md5(CONTENT))
    server.cut = 3000
    for _ in range(2):
        with pytest.raises(RunError, match=r"data\.bin: .*run again to continue"):
            fetch(source, tmp_path)
    assert (tmp_path / "data.bin.part").stat().st_size == 6000
    server.cut = None
    assert fetch(source, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=3000-", "bytes=6000-"]


def test_file_that_changed_meanwhile_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    server.files["/data.bin"], server.cut = CONTENT, 3000
    source = Download(server.url("data.bin"))
    with pytest.raises(RunError):
        fetch(source, tmp_path)
    server.files["/data.bin"], server.cut = CONTENT[::-1], None
    assert fetch(source, tmp_path).read_bytes() == CONTENT[::-1]


def test_server_that_cannot_continue_sends_the_whole_file(server: Server, tmp_path: Path) -> None:
    server.files["/data.bin"], server.tags, server.cut = CONTENT, False, 3000
    source = Download(server.url("data.bin"), md5(CONTENT))
    with pytest.raises(RunError):
        fetch(source, tmp_path)
    server.cut = None
    assert fetch(source, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, None]


def test_part_that_is_the_whole_file_already_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    server.files["/data.bin"], server.cut = CONTENT, len(CONTENT) - 1
    source = Download(server.url("data.bin"), md5(CONTENT))
    with pytest.raises(RunError):
        fetch(source, tmp_path)
    server.cut = None
    (tmp_path / "data.bin.part").write_bytes(CONTENT)
    assert fetch(source, tmp_path).read_bytes() == CONTENT


def test_wrong_checksum_is_refused_and_the_file_deleted(server: Server, tmp_path: Path) -> None:
    server.files["/data.bin"] = CONTENT + b"!"
    with pytest.raises(RunError, match=r"its md5 is .*, not .*; the file was deleted"):
        fetch(Download(server.url("data.bin"), md5(CONTENT)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_manually_downloaded_file_is_used(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(CONTENT)
    assert fetch(Download("http://127.0.0.1:9/data.bin", md5(CONTENT)), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/data.bin", "none.bin", "file:///no/such/file"])
def test_server_that_does_not_answer_is_reported_in_one_line(url: str, server: Server, tmp_path: Path) -> None:
    url = server.url(url) if url == "none.bin" else url
    with pytest.raises(RunError, match="run again to continue, or put the file at ") as caught:
        fetch(Download(url), tmp_path)
    assert str(caught.value).startswith(url)
    assert "\n" not in str(caught.value)


def test_plain_file_of_a_file_address_is_brought(tmp_path: Path) -> None:
    (tmp_path / "there.json").write_bytes(CONTENT)
    folder = tmp_path / "data" / "eurosat"
    bring([Piece("split.json", "page", Download((tmp_path / "there.json").as_uri(), md5(CONTENT)))], folder)
    assert [(path.name, path.read_bytes()) for path in folder.iterdir()] == [("split.json", CONTENT)]


@pytest.mark.parametrize("pack", [tar, zipped, lambda files: tar(files, "w")], ids=["tar.gz", "zip", "tar"])
def test_archive_is_unpacked_and_its_members_moved_to_their_places(pack, server: Server, tmp_path: Path) -> None:
    packed = pack({"set-2013/data/images/1.jpg": b"one", "set-2013/data/list.txt": b"two", "set-2013/readme": b"no"})
    server.files["/set.tgz"] = packed
    pieces = [
        Piece("images", "page", Download(server.url("set.tgz"), md5(packed), "set-2013/data/images")),
        Piece("list.txt", "page", Download(server.url("set.tgz"), md5(packed), "set-2013/data/list.txt")),
    ]
    bring(pieces, tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["images", "images/1.jpg", "list.txt"]
    assert server.ranges == [None]


def test_archive_within_an_archive_is_unpacked(server: Server, tmp_path: Path) -> None:
    server.files["/c.zip"] = zipped({"c/inner.tar.gz": tar({"images/a/1.jpg": b"one"}), "c/other": b""})
    bring([Piece("images", "page", Download(server.url("c.zip"), "", "images", "c/inner.tar.gz"))], tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["images", "images/a", "images/a/1.jpg"]


@pytest.mark.parametrize("name", ["../outside", "/outside"])
def test_archive_that_leaves_its_folder_is_refused(name: str, server: Server, tmp_path: Path) -> None:
    server.files["/bad.tar"] = tar({name: b"evil"}, "w")
    with pytest.raises(RunError):
        bring([Piece("images", "page", Download(server.url("bad.tar"), "", "images"))], tmp_path / "data")
    assert not list(tmp_path.rglob("outside")) or all(WORK in str(path) for path in tmp_path.rglob("outside"))
    assert not Path("/outside").exists()


def test_damaged_or_wrong_archive_is_refused_in_one_line(server: Server, tmp_path: Path) -> None:
    server.files["/bad.tar"] = CONTENT
    piece = Piece("images", "page", Download(server.url("bad.tar"), "", "images"))
    with pytest.raises(RunError, match=r"bad\.tar: cannot be unpacked"):
        bring([piece], tmp_path)
    (tmp_path / WORK / "bad.tar").unlink()
    server.files["/bad.tar"] = tar({"pictures/1.jpg": b"one"})
    with pytest.raises(RunError, match="the archive has no images"):
        bring([piece], tmp_path)


def test_existing_files_are_untouched_and_missing_ones_listed_or_fetched(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["/split.json"] = b"[]"
    pieces = (
        Piece("2750", "page", Download(server.url("images.zip"), "", "2750")),
        Piece("split_zhou_EuroSAT.json", "page", Download(server.url("split.json"))),
        Piece("labels", "https://somewhere", note="by post"),
    )
    monkeypatch.setitem(SOURCES, "eurosat", Source("EuroSAT", "", "", pieces))
    (tmp_path / "eurosat" / "2750").mkdir(parents=True)
    download(["eurosat"], str(tmp_path))
    folder = tmp_path / "eurosat"
    assert capsys.readouterr().out.splitlines() == [
        f"eurosat: {folder / '2750'} already exists",
        f"eurosat: {folder / 'labels'} must be fetched by hand: https://somewhere (by post)",
        f"eurosat: {folder / 'split_zhou_EuroSAT.json'} fetched",
    ]
    assert sorted(path.name for path in folder.iterdir()) == ["2750", "split_zhou_EuroSAT.json"]
    assert list((folder / "2750").iterdir()) == []


def test_released_codes_folder_is_completed_in_place(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["/split.json"] = b"[]"
    piece = Piece("split.json", "page", Download(server.url("split.json")))
    monkeypatch.setitem(SOURCES, "eurosat", Source("EuroSAT", "", "", (piece,)))
    (tmp_path / "datasets" / "eurosat").mkdir(parents=True)
    download(["eurosat"], str(tmp_path))
    assert (tmp_path / "datasets" / "eurosat" / "split.json").read_bytes() == b"[]"


def test_checksums_of_archives_are_torchvisions() -> None:
    from torchvision.datasets import DTD, Food101, OxfordIIITPet

    def source(name: str) -> Download:
        return SOURCES[name].pieces[0].download

    assert (source("dtd").url, source("dtd").checksum) == (DTD._URL, f"md5:{DTD._MD5}")
    assert (source("food101").url, source("food101").checksum) == (Food101._URL, f"md5:{Food101._MD5}")
    assert (source("oxford_pets").url, source("oxford_pets").checksum.removeprefix("md5:")) == OxfordIIITPet._RESOURCES[0]


@pytest.mark.parametrize("name", ["caltech101", "dtd", "eurosat", "oxford_flowers"])
def test_checksums_of_splits_are_those_of_the_real_files(name: str, test_data: Path) -> None:
    piece = next(piece for piece in SOURCES[name].pieces if piece.path.startswith("split_"))
    assert piece.download.checksum == f"sha256:{hashlib.sha256((test_data / 'splits' / piece.path).read_bytes()).hexdigest()}"
