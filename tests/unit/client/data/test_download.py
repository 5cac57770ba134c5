"""Downloads from a local server that closes connections early, refuses, or sends another file."""

import hashlib
import http.server
import io
import os
import re
import tarfile
import threading

import numpy as np
import pytest

from fedn_partial.client.data import download
from fedn_partial.errors import DataError

CONTENT = np.random.default_rng(1).bytes(3_000_000)
CHECKSUM = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.asked.append(self.headers["Range"])
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        start = 0
        if server.ranges and self.headers["Range"]:
            start = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1])
            if start >= len(server.content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(server.content) - start))
        self.end_headers()
        end = start + (server.cuts.pop(0) if server.cuts else len(server.content))
        self.wfile.write(server.content[start:end])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "PAUSES", (0, 0))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.content, server.ranges, server.statuses, server.cuts, server.asked = CONTENT, True, [], [], []
        server.url = f"http://127.0.0.1:{server.server_port}/data.tar.gz"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_file_comes_whole_and_its_progress_is_told(server, tmp_path, capsys):
    path = download.fetch(server.url, CHECKSUM, tmp_path / "data")
    assert path == tmp_path / "data" and path.read_bytes() == CONTENT
    assert os.listdir(tmp_path) == ["data"]
    assert re.search(r"data\.tar\.gz .*3\.0/3\.0 MB 100%", capsys.readouterr().err)


def test_cut_connections_are_taken_up_where_they_ended(server, tmp_path):
    server.cuts = [1_000_000, 500_000, 700_000]
    download.fetch(server.url, CHECKSUM, tmp_path / "data")
    assert (tmp_path / "data").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000000-", "bytes=1500000-", "bytes=2200000-"]


def test_a_later_run_goes_on_where_an_earlier_one_gave_up(server, tmp_path):
    server.cuts = [1_000_000, 0, 0]
    with pytest.raises(DataError, match=r"ended after 1,000,000 of 3,000,000 bytes; 1.0 MB are kept in .*data.part"):
        download.fetch(server.url, CHECKSUM, tmp_path / "data")
    assert not (tmp_path / "data").exists()
    server.asked.clear()
    download.fetch(server.url, CHECKSUM, tmp_path / "data")
    assert server.asked == ["bytes=1000000-"]
    assert (tmp_path / "data").read_bytes() == CONTENT


def test_a_server_without_ranges_sends_all_again(server, tmp_path):
    server.ranges, server.cuts = False, [2_000_000]
    download.fetch(server.url, CHECKSUM, tmp_path / "data")
    assert server.asked == [None, "bytes=2000000-"]
    assert (tmp_path / "data").read_bytes() == CONTENT


def test_a_server_without_ranges_that_always_cuts_is_given_up(server, tmp_path):
    server.ranges, server.cuts = False, [2_000_000] * 10
    with pytest.raises(DataError, match="ended after 2,000,000 of 3,000,000"):
        download.fetch(server.url, CHECKSUM, tmp_path / "data")
    assert len(server.asked) == 3  # one, and one after each pause


def test_all_had_come_but_was_not_checked(server, tmp_path):
    (tmp_path / "data.part").write_bytes(CONTENT)
    download.fetch(server.url, CHECKSUM, tmp_path / "data")
    assert (tmp_path / "data").read_bytes() == CONTENT


def test_something_else_is_refused_with_both_checksums_and_deleted(server, tmp_path):
    server.content = b"<html>not found</html>"
    with pytest.raises(DataError) as error:
        download.fetch(server.url, CHECKSUM, tmp_path / "data")
    for told in (server.url, CHECKSUM, hashlib.sha256(server.content).hexdigest(), "--source"):
        assert told in str(error.value)
    assert os.listdir(tmp_path) == []


def test_a_server_that_is_busy_is_asked_again(server, tmp_path):
    server.statuses = [503, 429]
    download.fetch(server.url, CHECKSUM, tmp_path / "data")
    assert len(server.asked) == 3


def test_a_server_that_has_no_such_file_is_asked_once(server, tmp_path):
    server.statuses = [404]
    with pytest.raises(DataError, match="answers 404 Not Found; download the file by hand"):
        download.fetch(server.url, CHECKSUM, tmp_path / "data")
    assert len(server.asked) == 1


def test_no_server(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "PAUSES", (0,))
    with pytest.raises(DataError, match=r"refused.*0.0 MB are kept"):
        download.fetch("http://127.0.0.1:9/data", CHECKSUM, tmp_path / "data")


@pytest.fixture
def archive(server):
    """An archive on the server with two files to unpack and two others."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name in ("set/train/1.txt", "set/test/2.txt", "set/other/3.txt", "set/train/../../4.txt"):
            member = tarfile.TarInfo(name)
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
    server.content = packed.getvalue()
    return download.Archive(server.url, hashlib.sha256(server.content).hexdigest(), ("set/train/", "set/test/"))


def test_archive_is_unpacked_into_the_cache_once(server, archive, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = download.obtain("set", archive)
    assert folder == tmp_path / "fedn-partial" / "set"
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert found == ["fedn-partial/set.lock", "fedn-partial/set/set/test/2.txt", "fedn-partial/set/set/train/1.txt"]
    assert (folder / "set/train/1.txt").read_text() == "set/train/1.txt"
    assert download.obtain("set", archive) == folder
    assert len(server.asked) == 1


def test_nothing_is_downloaded_that_cannot_be_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(DataError, match=r"its SHA-256 is unknown: download it from http://x/y, unpack it.*--source"):
        download.obtain("set", download.Archive("http://x/y", None))


def test_cache_is_below_home_unless_said_otherwise(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert download.cache() == tmp_path / ".cache" / "fedn-partial"
