"""Weight files from a local server that cuts connections, redirects, lies, and knows or does not know Range."""

import email.message
import fcntl
import hashlib
import io
import threading
import urllib.request
import urllib.response
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from combo_avs.errors import BadInput, ComboError
from combo_avs.model.weights.registry import WEIGHT_FILES, WeightFile
from combo_avs.pipeline.weights import download as downloading
from combo_avs.pipeline.weights.fetch import fetch_weights, list_weights, show_checks, show_list, verify_weights

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """What it sends, how it behaves, and what it was asked."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=lambda: {"/net.pth": CONTENT, "/other.pth": CONTENT[::-1]})
    cuts: list[int] = field(default_factory=list)  # the next connections end after so many bytes
    statuses: list[int] = field(default_factory=list)  # the next answers
    ranges: bool = True
    lengths: bool = True
    kind: str = "application/octet-stream"
    redirects: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # path and Range


def handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            server.asked.append((self.path, wanted))
            if server.statuses:
                self.send_error(server.statuses.pop(0))
            elif self.path in server.redirects:
                self.send_response(302)
                self.send_header("Location", server.redirects[self.path])
                self.end_headers()
            elif self.path in server.files:
                self.send_file(server.files[self.path], wanted)
            else:
                self.send_error(404)

        def send_file(self, content: bytes, wanted: str | None) -> None:
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.ranges else 0
            if start and start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Type", server.kind)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            if server.lengths:
                self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            cut = server.cuts.pop(0) if server.cuts else None
            self.wfile.write(content[start:][:cut])

        def log_message(self, *_: object) -> None: ...

    return Handler


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(state)) as http:
        state.address = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        http.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def folder(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights folder, and one known file with a published hash ("net") and one without ("plain")."""
    for name in ("COMBO_OFFLINE", "COMBO_WEIGHTS_MIRROR", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COMBO_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr(downloading, "PAUSE", 0.0)
    known = [
        WeightFile("net", "net.pth", f"{server.address}/net.pth", "MIT", "masks", 1, len(CONTENT), SHA256[:10]),
        WeightFile("plain", "other.pth", f"{server.address}/other.pth", "none stated", "masks", 1),
    ]
    for name in list(WEIGHT_FILES):
        monkeypatch.delitem(WEIGHT_FILES, name)
    for file in known:
        monkeypatch.setitem(WEIGHT_FILES, file.name, file)
    return tmp_path / "weights"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestFetch:
    def test_one_file(self, folder: Path) -> None:
        assert fetch_weights(["net"]) == [f"net: {folder / 'net.pth'}"]
        assert (folder / "net.pth").read_bytes() == CONTENT
        assert names(folder) == ["net.pth"]

    def test_all_files_and_none_twice(self, server: Server, folder: Path) -> None:
        fetch_weights(["all"])
        assert names(folder) == ["net.pth", "other.pth", "other.pth.sha256"]
        asked = list(server.asked)
        assert all("was there already" in line for line in fetch_weights(["plain", "net", "net"]))
        assert server.asked == asked

    def test_a_damaged_file_is_replaced(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "net.pth").write_bytes(CONTENT[:-1])
        fetch_weights(["net"])
        assert (folder / "net.pth").read_bytes() == CONTENT

    def test_cut_connections_go_on_where_they_ended(self, server: Server, folder: Path) -> None:
        server.cuts = [100_000] + [1_000] * 7  # more cuts than tries, but each brought something
        fetch_weights(["net"])
        assert (folder / "net.pth").read_bytes() == CONTENT
        assert [wanted for _, wanted in server.asked][:3] == [None, "bytes=100000-", "bytes=101000-"]
        assert len(server.asked) == 9

    def test_given_up_and_gone_on_with_later(self, server: Server, folder: Path) -> None:
        server.cuts = [70_000] + [0] * 4
        with pytest.raises(ComboError, match=r"cut, 5 times .* 70,000 bytes are kept; run the same command"):
            fetch_weights(["net"])
        assert names(folder) == ["net.pth.part"]
        fetch_weights(["net"])
        assert server.asked[-1] == ("/net.pth", "bytes=70000-")
        assert (folder / "net.pth").read_bytes() == CONTENT
        assert names(folder) == ["net.pth"]

    def test_a_server_without_ranges_sends_all_of_it_again(self, server: Server, folder: Path) -> None:
        server.ranges, server.cuts = False, [70_000]
        fetch_weights(["net"])
        assert (folder / "net.pth").read_bytes() == CONTENT

    @pytest.mark.parametrize("name", ["net", "plain"])
    def test_a_complete_part_is_taken(self, server: Server, folder: Path, name: str) -> None:
        path = WEIGHT_FILES[name].file_name
        folder.mkdir()
        (folder / f"{path}.part").write_bytes(server.files[f"/{path}"])
        fetch_weights([name])
        assert (folder / path).read_bytes() == server.files[f"/{path}"]

    @pytest.mark.parametrize("part", [b"x" * 5_000, CONTENT + b"x", bytes(len(CONTENT))])
    def test_a_part_of_something_else_is_fetched_anew(self, folder: Path, part: bytes) -> None:
        folder.mkdir()
        (folder / "net.pth.part").write_bytes(part)
        fetch_weights(["net"])
        assert (folder / "net.pth").read_bytes() == CONTENT

    def test_no_lengths(self, server: Server, folder: Path) -> None:
        server.lengths, server.cuts = False, [50_000]
        fetch_weights(["net", "plain"])
        assert (folder / "net.pth").read_bytes() == CONTENT
        assert (folder / "other.pth").read_bytes() == CONTENT[::-1]

    def test_redirects(self, server: Server, folder: Path) -> None:
        server.redirects = {"/net.pth": "/storage/1", "/storage/1": f"{server.address}/storage/2"}
        server.files = {"/storage/2": CONTENT}
        server.cuts = [10_000]
        fetch_weights(["net"])
        assert (folder / "net.pth").read_bytes() == CONTENT
        assert server.asked[-1] == ("/storage/2", "bytes=10000-")

    def test_a_busy_server_is_asked_again(self, server: Server, folder: Path) -> None:
        server.statuses = [503, 429, 500]
        fetch_weights(["net"])
        assert (folder / "net.pth").read_bytes() == CONTENT

    def test_a_mirror(self, server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        server.files = {"/mirror/combo/net.pth": CONTENT}
        monkeypatch.setenv("COMBO_WEIGHTS_MIRROR", f"{server.address}/mirror/combo/")
        fetch_weights(["net"])
        assert [path for path, _ in server.asked] == ["/mirror/combo/net.pth"]
        assert (folder / "net.pth").read_bytes() == CONTENT


class TestRefused:
    @pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"x", bytes(len(CONTENT))])
    def test_another_file(self, server: Server, folder: Path, content: bytes) -> None:
        server.files["/net.pth"] = content
        with pytest.raises(ComboError, match=r"not what was published as net\.pth: its? .*thrown away"):
            fetch_weights(["net"])
        assert names(folder) == []

    def test_another_file_leaves_the_old_one(self, server: Server, folder: Path) -> None:
        folder.mkdir()
        (folder / "net.pth").write_bytes(b"old")
        server.files["/net.pth"] = b"new"
        with pytest.raises(ComboError):
            fetch_weights(["net"])
        assert (folder / "net.pth").read_bytes() == b"old"

    def test_a_page_instead_of_a_file(self, server: Server, folder: Path) -> None:
        server.kind = "text/html; charset=utf-8"
        with pytest.raises(ComboError, match="it is a web page"):
            fetch_weights(["plain"])
        assert names(folder) == []

    def test_from_https_to_http(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """No certificate for a server of our own, so the answer to the redirected request is made up."""
        answer = urllib.response.addinfourl(io.BytesIO(CONTENT), email.message.Message(), "http://elsewhere/net", 200)
        monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: answer)
        monkeypatch.setenv("COMBO_WEIGHTS_MIRROR", "https://mirror")
        with pytest.raises(ComboError, match="leads to http://elsewhere/net"):
            fetch_weights(["net"])

    def test_no_such_file_is_not_asked_for_again(self, server: Server, folder: Path) -> None:
        server.files = {}
        with pytest.raises(ComboError, match=r"/net\.pth: the server answers 404"):
            fetch_weights(["net"])
        assert len(server.asked) == 1
        assert names(folder) == []

    def test_a_server_that_stays_broken(self, server: Server) -> None:
        server.statuses = [503] * 9
        with pytest.raises(ComboError, match=r"503 .*5 times in a row"):
            fetch_weights(["net"])
        assert len(server.asked) == 5

    def test_nobody_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COMBO_WEIGHTS_MIRROR", "http://127.0.0.1:1")
        with pytest.raises(ComboError, match=r"127\.0\.0\.1:1/net\.pth: .*refused"):
            fetch_weights(["net"])

    def test_two_at_once(self, server: Server, folder: Path) -> None:
        folder.mkdir()
        with (folder / "net.pth.part").open("ab") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            with pytest.raises(BadInput, match="another process"):
                fetch_weights(["net"])

    def test_offline(self, server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fetch_weights(["net"])
        asked = len(server.asked)
        monkeypatch.setenv("COMBO_OFFLINE", "1")
        with pytest.raises(BadInput) as error:
            fetch_weights(["all"])
        assert f"{server.address}/other.pth (1 MB) as {folder / 'other.pth'}" in str(error.value)
        assert "net.pth" not in str(error.value)
        assert len(fetch_weights(["net"])) == 1
        assert len(server.asked) == asked

    def test_disk_too_small(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(WEIGHT_FILES, "net", WeightFile("net", "net.pth", "http://x/", "MIT", "masks", 1, 10**16))
        with pytest.raises(BadInput, match=r"10,000,000,000 MB are needed.*COMBO_WEIGHTS"):
            fetch_weights(["net"])

    def test_names(self) -> None:
        with pytest.raises(BadInput, match="'plian'; did you mean plain"):
            fetch_weights(["net", "plian"])
        with pytest.raises(BadInput, match="known: net, plain"):
            fetch_weights([])

    def test_a_mirror_that_is_no_address(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COMBO_WEIGHTS_MIRROR", "file:///etc")
        with pytest.raises(BadInput, match="COMBO_WEIGHTS_MIRROR"):
            fetch_weights(["net"])


class TestVerify:
    def states(self, *wanted: str) -> dict[str, str]:
        return {row["name"]: row["state"] for row in verify_weights(list(wanted))}

    def test_what_is_there(self, folder: Path) -> None:
        assert self.states() == {}
        assert self.states("all") == {"net": "missing", "plain": "missing"}
        fetch_weights(["net"])
        assert self.states() == {"net": "ok"}

    def test_without_a_published_hash_the_one_of_the_download_counts(self, folder: Path) -> None:
        fetch_weights(["plain"])
        assert self.states() == {"plain": "unpublished"}
        (folder / "other.pth").write_bytes(CONTENT)
        (row,) = verify_weights(["plain"])
        assert row["state"] == "damaged"
        assert "when it was fetched" in row["problem"]

    def test_brought_by_hand(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "other.pth").write_bytes(CONTENT)
        (folder / "net.pth").write_bytes(CONTENT)
        assert self.states() == {"net": "ok", "plain": "unpublished"}

    @pytest.mark.parametrize("content", [b"", CONTENT[:-1], bytes(len(CONTENT))])
    def test_damage(self, folder: Path, content: bytes) -> None:
        folder.mkdir()
        (folder / "net.pth").write_bytes(content)
        (row,) = verify_weights([])
        assert row["state"] == "damaged"
        assert "combo weights fetch net" in row["problem"]
        assert row["sha256"] == hashlib.sha256(content).hexdigest()

    def test_as_text(self, folder: Path) -> None:
        assert "combo weights list" in show_checks(verify_weights([]))
        fetch_weights(["net"])
        text = show_checks(verify_weights(["net", "plain"]))
        assert SHA256 in text
        assert "combo weights fetch plain" in text


def test_list(server: Server, folder: Path) -> None:
    fetch_weights(["plain"])
    rows = {row["name"]: row for row in list_weights()}
    assert [row["present"] for row in rows.values()] == [False, True]
    assert rows["net"]["path"] == str(folder / "net.pth")
    text = show_list(list_weights())
    for piece in (str(folder), "net", SHA256[:8], "MIT", f"{server.address}/other.pth", "no hash published"):
        assert piece in text
