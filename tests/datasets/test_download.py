"""Downloads against a server on this machine that is slow, cut off, wrong or gone."""

import errno
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import datasets
from datasets.base import DataError, DataMissing
from datasets.files import download as module
from datasets.files import fetch, folder
from datasets.files.download import DownloadFailed, download
from datasets.files.recognise import starting_with, whole_file
from datasets.files.sources import File, Form, Source
from datasets.tables import uci

# Interruptions fall between blocks of 65,536 bytes, which are what is written at once.
CONTENT = bytes(range(256)) * 4000
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT under any path; what goes wrong depends on the path.

    Attributes:
        requests: path and Range header of each request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, str | None]] = []

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.requests.append((self.path, asked))
        seen = sum(path == self.path for path, _ in self.server.requests)
        if self.path == "/gone":
            self.send_error(404)
        elif self.path == "/busy" and seen == 1:
            self.send_error(503)
        elif self.path == "/wrong":
            self.answer(b"<html>moved</html>")
        elif self.path == "/no-ranges":
            self.answer(CONTENT, cut=300_000 if seen == 1 else None)
        elif self.path == "/stuck" and seen == 1:
            self.answer(CONTENT, cut=131_072, pause=3.0)
        elif self.path == "/slow":
            self.answer(CONTENT, pause_often=0.25)
        else:
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
            if start >= len(CONTENT):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            cut = 393_216 if self.path == "/cut" else None
            self.answer(CONTENT[start:], status=206 if asked else 200, cut=cut)

    def answer(
        self,
        body: bytes,
        status: int = 200,
        cut: int | None = None,
        pause: float = 0.0,
        pause_often: float = 0.0,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            if pause_often:
                for start in range(0, len(body), 100_000):
                    self.wfile.write(body[start : start + 100_000])
                    time.sleep(pause_often)
            else:
                self.wfile.write(body[:cut])
                self.wfile.flush()
                time.sleep(pause)
        except ConnectionError:
            pass
        self.close_connection = True


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def file_at(server: Server) -> Callable[..., File]:
    def file(*paths: str) -> File:
        return File(
            "thing.bin",
            whole_file(SHA256, len(CONTENT)),
            tuple(server.url(path) for path in paths),
            SHA256,
            len(CONTENT),
        )

    return file


def left_in(data_folder: Path) -> list[str]:
    """What lies among the downloads, but for lock files, which stay."""
    names = [path.name for path in (data_folder / folder.DOWNLOADS).iterdir()]
    return [name for name in names if not name.endswith(".lock")]


def get(file: File, timeout: float = 5.0, attempts: int = 4) -> Path:
    return download(file, progress=False, timeout=timeout, attempts=attempts, wait=0.01)


def test_a_whole_file_is_put_in_place(
    file_at: Callable[..., File], server: Server, data_folder: Path
) -> None:
    path = get(file_at("fine"))
    assert path == data_folder / folder.DOWNLOADS / "thing.bin"
    assert path.read_bytes() == CONTENT
    assert get(file_at("fine")) == path
    assert len(server.requests) == 1


def test_a_download_that_is_cut_off_goes_on_where_it_stopped(
    file_at: Callable[..., File], server: Server
) -> None:
    assert get(file_at("cut")).read_bytes() == CONTENT
    asked = [asked for _, asked in server.requests]
    assert asked == [None, "bytes=393216-", "bytes=786432-"]


def test_a_later_call_goes_on_as_well(file_at: Callable[..., File], server: Server) -> None:
    with pytest.raises(DownloadFailed, match=r"closed|broken|IncompleteRead"):
        get(file_at("cut"), attempts=1)
    assert get(file_at("fine")).read_bytes() == CONTENT
    assert server.requests[-1] == ("/fine", "bytes=393216-")


def test_a_server_without_ranges_starts_again(file_at: Callable[..., File], server: Server) -> None:
    assert get(file_at("no-ranges")).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_a_silent_server_is_given_up_and_asked_again(
    file_at: Callable[..., File], server: Server
) -> None:
    assert get(file_at("stuck"), timeout=1.0).read_bytes() == CONTENT
    assert server.requests[1] == ("/stuck", "bytes=131072-")


def test_a_slow_server_is_waited_for(file_at: Callable[..., File], server: Server) -> None:
    assert get(file_at("slow"), timeout=2.0).read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_two_that_want_the_same_file_fetch_it_once(
    file_at: Callable[..., File], server: Server
) -> None:
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(get, [file_at("slow")] * 2))
    assert paths[0].read_bytes() == CONTENT
    assert paths[0] == paths[1]
    assert len(server.requests) == 1


def test_a_busy_server_is_asked_again(file_at: Callable[..., File], server: Server) -> None:
    assert get(file_at("busy")).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_a_missing_page_is_asked_for_once_and_the_next_mirror_serves(
    file_at: Callable[..., File], server: Server
) -> None:
    assert get(file_at("gone", "fine")).read_bytes() == CONTENT
    assert [path for path, _ in server.requests] == ["/gone", "/fine"]


def test_wrong_content_is_thrown_away_and_the_next_mirror_serves(
    file_at: Callable[..., File], data_folder: Path
) -> None:
    assert get(file_at("wrong", "fine")).read_bytes() == CONTENT
    (data_folder / folder.DOWNLOADS / "thing.bin").unlink()
    with pytest.raises(DownloadFailed, match="sha256"):
        get(file_at("wrong"))
    assert left_in(data_folder) == []


def test_a_published_md5_alone_tells_wrong_content_with_both_sums(
    server: Server, data_folder: Path
) -> None:
    """Of a file that was never at hand; its beginning alone would let this one pass."""
    anything = starting_with(b"", "thing.bin")
    due = hashlib.md5(b"another file").hexdigest()
    other = File("thing.bin", anything, (server.url("fine"),), f"md5:{due}")
    with pytest.raises(DownloadFailed, match=rf"thing\.bin(.|\n)*{due}(.|\n)*{MD5[4:]}"):
        get(other)
    assert left_in(data_folder) == []
    mirrors = tuple(server.url(path) for path in ("gone", "wrong", "fine"))
    assert get(File("thing.bin", anything, mirrors, MD5)).read_bytes() == CONTENT
    assert [path for path, _ in server.requests] == ["/fine", "/gone", "/wrong", "/fine"]


def test_what_is_published_of_sets_that_were_not_at_hand_is_held_to() -> None:
    """Zenodo's own sum; torchvision's of the others."""
    files = {
        file.name: file
        for entry in datasets.ENTRIES.values()
        if (source := entry.config.files()) is not None
        for form in source.forms
        for file in form.files
    }
    assert files["data.tar.gz"].checksum == "md5:9b9c9b0375315ad270eba4ce80c093ab"
    assert len(files["data.tar.gz"].addresses) == 2
    assert len(files["BSDS300-images.tgz"].addresses) == 2
    cifar = files["cifar-10-python.tar.gz"]
    assert (cifar.checksum, cifar.size) == ("md5:c58f30108f718f92721af3b95e74349a", 170_498_071)
    assert files["images_background.zip"].checksum == "md5:68d2efa1b9178cc56df9314c21c6e718"
    assert files["images_evaluation.zip"].checksum == "md5:6b91aef0f799c5bb55b94e3f2daec811"


def test_wrong_content_is_told_without_a_sum_too(server: Server, data_folder: Path) -> None:
    file = File("thing.bin", starting_with(CONTENT[:9], "thing.bin"), (server.url("wrong"),))
    with pytest.raises(DownloadFailed, match="<html>"):
        get(file)
    assert left_in(data_folder) == []


def test_every_reason_is_told(file_at: Callable[..., File]) -> None:
    with pytest.raises(DownloadFailed, match=r"404(.|\n)*sha256"):
        get(file_at("gone", "wrong"))


def test_nobody_at_the_address(data_folder: Path) -> None:
    file = File("thing.bin", whole_file(SHA256, 1), ("http://127.0.0.1:9/thing.bin",))
    with pytest.raises(DownloadFailed, match=r"thing\.bin"):
        get(file, attempts=1)


def test_a_finished_part_is_used(file_at: Callable[..., File], data_folder: Path) -> None:
    """A process that died between the last byte and the renaming has everything."""
    part = data_folder / folder.DOWNLOADS / "thing.bin.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT)
    assert get(file_at("fine")).read_bytes() == CONTENT


def test_a_part_that_is_too_long_is_thrown_away(
    file_at: Callable[..., File], data_folder: Path
) -> None:
    part = data_folder / folder.DOWNLOADS / "thing.bin.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT + b"more")
    assert get(file_at("fine")).read_bytes() == CONTENT


def test_a_wrong_file_in_the_way_is_replaced(
    file_at: Callable[..., File], data_folder: Path
) -> None:
    place = data_folder / folder.DOWNLOADS / "thing.bin"
    place.parent.mkdir()
    place.write_bytes(b"half of it")
    assert get(file_at("fine")).read_bytes() == CONTENT


def test_a_full_disk_is_told(file_at: Callable[..., File], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.shutil, "move", full)
    with pytest.raises(DataError, match="full"):
        get(file_at("fine"))


def test_fetch_status_and_load_of_a_set_of_the_table(
    file_at: Callable[..., File], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source((Form("bin", (file_at("fine"),)),), "CC0", "nobody")
    monkeypatch.setitem(uci.SOURCES, "magic", source)
    before = fetch.status("magic")
    assert (before.state, before.bytes, before.licence) == ("downloadable", len(CONTENT), "CC0")
    assert "data fetch magic" in before.advice
    (path,) = fetch.fetch("magic", progress=False)
    assert path.read_bytes() == CONTENT
    after = fetch.status("magic")
    assert (after.state, after.paths, after.bytes) == ("present", (path,), len(CONTENT))
    assert fetch.fetch("magic", progress=False) == (path,)


def test_fetch_of_what_has_no_address_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    file = File("mine.bin", whole_file(SHA256, len(CONTENT)))
    source = Source((Form("bin", (file,)),), "CC0", "nobody", "ask the author")
    monkeypatch.setitem(uci.SOURCES, "magic", source)
    assert fetch.status("magic").state == "user-supplied"
    with pytest.raises(DataMissing, match=r"mine\.bin(.|\n)*ask the author"):
        fetch.fetch("magic")
