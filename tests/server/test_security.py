import contextlib
import gzip
import http.client
import io
import logging
import os
import random
import socket
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image
from starlette.testclient import TestClient

import aladin.server.limits
from aladin.collection.indexing import index_folder
from aladin.collection.store import default_file
from aladin.collection.writer import CollectionWriter
from aladin.encoder.encoder import Encoder
from aladin.server.files import read_below
from aladin.server.problems import Problem
from aladin.server.settings import RANK, Limits
from tests.conftest import paint
from tests.hostile_images import bombs, encoded, picture
from tests.serving import (
    ADMIN,
    ORIGIN,
    SEARCH,
    TOKENS,
    WRITE,
    bearer,
    client_of,
    config_of,
    ids_by_name,
    painted_folder,
    server_of,
)

SECRET = b"bytes from outside of the folder"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, model_path: Path) -> Path:
    parent = tmp_path_factory.mktemp("served")
    (parent / "secret.txt").write_bytes(SECRET)
    return painted_folder(parent / "photos", model_path)


@pytest.fixture(scope="module")
def client(folder: Path, model_path: Path) -> Iterator[TestClient]:
    with client_of(config_of(folder, model_path)) as asked:
        yield asked


@pytest.fixture(scope="module")
def guarded(folder: Path, model_path: Path) -> Iterator[TestClient]:
    with client_of(config_of(folder, model_path, tokens=TOKENS)) as asked:
        yield asked


# Paths.


def traversals(count: int) -> list[str]:
    """Ways to say "a file elsewhere": raw, encoded once and twice, absolute, UNC, with NUL, in odd letters."""
    random.seed(5)
    targets = ("secret.txt", "etc/passwd", "photos/flag.png", "proc/self/environ", ".aladin/collection.sqlite", "settings.py")
    ups = (
        "../",
        "..%2f",
        "%2e%2e/",
        "%2e%2e%2f",
        "%252e%252e%252f",
        "..\\",
        "..%5c",
        "....//",
        "..;/",
        "%c0%ae%c0%ae/",
        "..%00/",
        "\uff0e\uff0e/",
    )
    starts = ("", "/", "//", "\\\\host\\share\\", "file:///", "/static/", "C:\\", "~/", "./", "%2f", "%00")
    ends = ("", "%00", "%00.jpg", "?v=1", "#x", "/", ".jpg", ";x")
    found = {
        random.choice(starts) + random.choice(ups) * random.randint(0, 7) + random.choice(targets) + random.choice(ends)
        for _ in range(4 * count)
    }
    return sorted(found)[:: max(len(found) // count, 1)][:count]


@pytest.mark.slow
def test_no_path_leads_out_of_the_folder(folder: Path, model_path: Path) -> None:
    """As a client sends them: nothing between it and the server tidies the path."""
    routes = (
        "/static/{}",
        "/v1/images/{}/thumbnail",
        "/v1/images/{}/preview",
        "/v1/images/{}",
        "/v1/uploads/{}",
        "/v1/similar/{}",
        "/{}",
    )
    asked = 0
    with server_of(config_of(folder, model_path, port=0)) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        for payload in traversals(300):
            for route in routes:
                path = quote(route.format(payload), safe="%/?#;:.~\\")
                connection.request("GET", path)
                answer = connection.getresponse()
                content = answer.read()
                asked += 1
                assert answer.status in (400, 404), path
                assert SECRET not in content
                assert answer.headers["content-type"] == "application/problem+json"
        connection.close()
    assert asked >= 2000


@pytest.mark.parametrize("path", ["../secret.txt", "/etc/passwd", "a/../../secret.txt", "", ".", "a//b", "x\0y", "warm"])
def test_a_path_in_a_collection_cannot_leave_the_folder_either(folder: Path, path: str) -> None:
    with pytest.raises(Problem) as refusal:
        read_below(folder, path)
    assert refusal.value.status_code == 404


@pytest.mark.slow
def test_a_file_or_folder_exchanged_for_a_link_is_not_followed(tmp_path: Path, model_path: Path) -> None:
    outside = paint(tmp_path / "outside" / "red.png", "green", seed=3)
    folder = painted_folder(tmp_path / "photos", model_path)
    with client_of(config_of(folder, model_path)) as client:
        ids = ids_by_name(client)
        (folder / "flag.png").unlink()
        (folder / "flag.png").symlink_to(outside)
        (folder / "warm").rename(folder / "was-warm")
        (folder / "warm").symlink_to(outside.parent)
        os.mkfifo(folder / "fifo")
        (folder / "pink.png").unlink()
        (folder / "fifo").rename(folder / "pink.png")
        for name in ("flag.png", "warm/red.png", "pink.png"):
            for kind in ("thumbnail", "preview"):
                assert client.get(f"/v1/images/{ids[name]}/{kind}").status_code == 404
            body = {"images": [{"id": ids[name], "box": {"x": 0, "y": 0, "width": 9, "height": 9}}]}
            assert client.post("/v1/search", json=body).status_code == 404


def test_a_link_that_comes_and_goes_is_never_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_bytes(SECRET)
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "a" / "secret.txt").write_bytes(b"inside")
    stop = threading.Event()

    def exchange() -> None:
        while not stop.is_set():
            (root / "a").rename(root / "b")
            (root / "a").symlink_to("..")
            (root / "a").unlink()
            (root / "b").rename(root / "a")

    thread = threading.Thread(target=exchange)
    thread.start()
    for _ in range(2000):
        try:
            assert read_below(root, "a/secret.txt") == b"inside"
        except Problem:
            continue
    stop.set()
    thread.join()


# Other sites.


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
        "",
        "localhost@evil",
        "192.168.0.5",
        "localhost:x",
        "[::2]",
        "LOCALHOST\t.evil",
    ],
)
def test_a_host_that_is_not_ours_is_refused(client: TestClient, host: str) -> None:
    for path in ("/", "/v1/status", "/healthz", "/static/app.js"):
        assert client.get(path, headers={"Host": host}).status_code == 400


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8321", "127.0.0.1:1", "[::1]:8321", "localhost."])
def test_our_own_names_are_ours(client: TestClient, host: str) -> None:
    assert client.get("/v1/status", headers={"Host": host}).status_code == 200


def test_a_further_name_can_be_allowed(folder: Path, model_path: Path) -> None:
    with client_of(config_of(folder, model_path, allowed_hosts=("Photos.Home",))) as client:
        assert client.get("/v1/status", headers={"Host": "photos.home"}).status_code == 200


FOREIGN = [
    {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://localhost:9999"},
    {"Origin": "http://localhost:8321.evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "nonsense"},
]  # fmt: skip


@pytest.mark.parametrize("headers", FOREIGN)
def test_a_page_of_another_site_gets_nothing(client: TestClient, headers: dict[str, str]) -> None:
    for method, path in (
        ("GET", "/v1/status"),
        ("POST", "/v1/search"),
        ("POST", "/v1/uploads"),
        ("GET", "/"),
        ("OPTIONS", "/v1/search"),
    ):
        answer = client.request(method, path, headers=headers, content=b"{}")
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers


def test_our_own_page_and_a_followed_link_may(client: TestClient) -> None:
    own = {"Origin": ORIGIN, "Sec-Fetch-Site": "same-origin"}
    assert client.post("/v1/search", json={"text": "red"}, headers=own).status_code == 200
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert client.get("/", headers=followed).status_code == 200
    assert client.get("/v1/status", headers=followed).status_code == 403


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""])
def test_a_form_is_no_search_and_no_upload(client: TestClient, kind: str) -> None:
    assert client.post("/v1/search", content=b'{"text": "red"}', headers={"Content-Type": kind}).status_code == 400
    assert client.post("/v1/uploads", content=b"--x\r\n\r\n1\r\n" * 1000, headers={"Content-Type": kind}).status_code == 415


def test_there_are_no_web_sockets(client: TestClient) -> None:
    from starlette.websockets import WebSocketDisconnect

    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/v1/search"):
        pass


# Tokens.


def operations(client: TestClient) -> list[tuple[str, str, str]]:
    """Each route with the scope it wants, by the document: what wants none is public."""
    scopes = {
        ("POST", "/v1/images"): "write",
        ("DELETE", "/v1/images/{image}"): "write",
        ("POST", "/v1/index"): "write",
        ("GET", "/metrics"): "admin",
    }
    public = ("/healthz", "/readyz")
    paths = client.get("/openapi.json").json()["paths"]
    found = []
    for path, methods in paths.items():
        for method, operation in methods.items():
            scope = "none" if path in public else scopes.get((method.upper(), path), "search")
            assert ("security" in operation) == (scope != "none"), path
            found.append((method.upper(), path, scope))
    return found


@pytest.mark.slow
def test_every_route_wants_its_scope(guarded: TestClient) -> None:
    tokens = {"search": SEARCH, "write": WRITE, "admin": ADMIN}
    routes = operations(guarded)
    assert len(routes) >= 17
    for method, path, scope in routes:
        url = path.replace("{image}", "aaaaaaaaaaaaa").replace("{upload}", "a" * 22)
        for headers in (
            {},
            bearer("wrong-0123456789abcdef"),
            {"Authorization": f"Basic {ADMIN}"},
            {"Authorization": "Bearer"},
            bearer(ADMIN[:-1]),
        ):
            answer = guarded.request(method, url, headers=headers)
            assert (answer.status_code == 401) == (scope != "none"), (method, path, headers)
            if scope != "none":
                assert answer.headers["www-authenticate"] == "Bearer"
        for name, token in tokens.items():
            if (method, path) == ("POST", "/v1/index") and name != "search":
                continue  # it would read the folder
            status = guarded.request(method, url, headers=bearer(token)).status_code
            enough = scope == "none" or RANK[name] >= RANK[scope]
            assert (status not in (401, 403)) == enough, (method, path, name)
        assert guarded.request(method, f"{url}?token={ADMIN}&access_token={ADMIN}").status_code == (
            200 if scope == "none" else 401
        )


def test_without_tokens_nobody_writes(client: TestClient) -> None:
    for method, path in (
        ("POST", "/v1/images"),
        ("DELETE", "/v1/images/aaaaaaaaaaaaa"),
        ("POST", "/v1/index"),
        ("GET", "/metrics"),
    ):
        answer = client.request(method, path)
        assert answer.status_code == 403
        assert "start it with --tokens FILE" in answer.json()["detail"]


def test_neither_tokens_nor_queries_are_logged(guarded: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        guarded.post(
            "/v1/search", json={"text": "my private red thing", "filter": {"where": "hidden ="}}, headers=bearer(SEARCH)
        )
        guarded.get("/v1/images?folder=privately", headers=bearer(SEARCH))
        guarded.get("/v1/status", headers=bearer("wrong-0123456789abcdef"))
    told = [record for record in caplog.records if record.name.startswith("aladin")]
    assert told[0].getMessage().split()[1:4] == ["POST", "/v1/search", "422"]
    everything = " ".join(record.getMessage() for record in caplog.records)
    for private in (SEARCH, "wrong-0123456789abcdef"):
        assert private not in everything
    assert not any(word in " ".join(record.getMessage() for record in told) for word in ("private", "hidden"))


# Headers.


def test_every_answer_carries_the_policy(client: TestClient) -> None:
    for method, path in (
        ("GET", "/"),
        ("GET", "/static/app.js"),
        ("GET", "/v1/status"),
        ("GET", "/nothing"),
        ("PUT", "/v1/search"),
        ("GET", "/v1/images/x"),
    ):
        headers = client.request(method, path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith(
            "default-src 'none'; img-src 'self' data: blob:; script-src 'self'; style-src 'self'; connect-src 'self'; "
            "frame-ancestors 'none'; base-uri 'none'"
        )
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert len(headers["x-request-id"]) == 16
        assert "server" not in headers


def test_the_page_has_no_inline_script_or_style_and_nothing_from_elsewhere(client: TestClient) -> None:
    html = client.get("/").text
    assert "<style" not in html
    assert " style=" not in html
    assert "onclick" not in html
    assert html.count("<script") == html.count('<script type="module" src="/static/')
    for name in ("app.js", "api.js", "grid.js", "viewer.js", "state.js", "words.js", "dom.js", "style.css"):
        text = client.get(f"/static/{name}").text
        assert "innerHTML" not in text
        assert "eval(" not in text
        assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


# Uploads.


@pytest.mark.slow
def test_a_body_that_is_too_large_is_refused(folder: Path, model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aladin.server.limits, "LINGER", 0.3)
    limits = Limits(workers=1, image_bytes=50_000, json_bytes=1000)
    with server_of(config_of(folder, model_path, limits=limits, port=0)) as server:
        stated = exchange(
            server.port,
            b"POST /v1/uploads HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 99999999\r\n\r\n",
        )
        assert stated.startswith(b"HTTP/1.1 413")
        chunk = b"2000\r\n" + b"x" * 0x2000 + b"\r\n"
        head = b"POST /v1/uploads HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert exchange(server.port, head + chunk * 50).startswith(b"HTTP/1.1 413")
        large = b'{"text": "' + b"x" * 2000 + b'"}'
        head = (
            b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            % len(large)
        )
        assert exchange(server.port, head + large).startswith(b"HTTP/1.1 413")


@pytest.mark.slow
@pytest.mark.parametrize("stated", [True, False], ids=["stated", "chunked"])
def test_who_sends_too_much_reads_the_refusal_after_sending_all(folder: Path, model_path: Path, stated: bool) -> None:
    limits = Limits(workers=1, image_bytes=50_000)
    body = iter([b"x" * 100_000] * 80)
    with server_of(config_of(folder, model_path, limits=limits, port=0)) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        headers = {"Content-Type": "image/png"} | ({"Content-Length": "8000000"} if stated else {})
        connection.request("POST", "/v1/uploads", body, headers, encode_chunked=not stated)
        answer = connection.getresponse()
        assert answer.status == 413
        assert b"the body is larger than 50,000 bytes; send less" in answer.read()
        connection.close()


@pytest.mark.slow
def test_a_slow_client_is_left(folder: Path, model_path: Path) -> None:
    limits = Limits(workers=1, body_seconds=0.5, header_seconds=0.5)
    with server_of(config_of(folder, model_path, limits=limits, port=0)) as server:
        assert exchange(server.port, b"GET / HTTP/1.1\r\nHost: loc") == b""  # closed, without a word
        head = b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n"
        assert exchange(server.port, head + b'{"te').startswith(b"HTTP/1.1 408")
        assert exchange(server.port, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").startswith(
            b"HTTP/1.1 200"
        )


def exchange(port: int, request: bytes) -> bytes:
    """What the server answers until it closes; fails when it does not."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        with contextlib.suppress(OSError):  # it has answered and left
            connection.sendall(request)
        answer = b""
        while True:
            try:
                part = connection.recv(65536)
            except ConnectionResetError:
                return answer
            if not part:
                return answer
            answer += part
            if b"\r\n\r\n" in answer and b"connection: close" not in answer.lower():
                return answer


HOSTILE = {
    "nothing": b"",
    "text": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
    "a zip": b"PK\x03\x04" + b"../../etc/passwd" * 200,
    "half a png": None,
    "a bomb": None,
    "html in a gif": b"GIF89a<script>alert(1)</script>",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_no_picture_is_refused_in_a_sentence(client: TestClient, tmp_path: Path, kind: str) -> None:
    data = HOSTILE[kind]
    if kind == "half a png":
        data = paint(tmp_path / "x.png", "red", size=(300, 200)).read_bytes()[:2000]
    if kind == "a bomb":
        data = bomb()
    assert data is not None
    before = set(Path(os.environ.get("TMPDIR", "/tmp")).iterdir())
    answer = client.post("/v1/uploads", content=data, headers={"Content-Type": "image/png"})
    assert answer.status_code == 422
    assert answer.json()["detail"]
    assert not [path for path in set(Path(os.environ.get("TMPDIR", "/tmp")).iterdir()) - before if "upload" in path.name]
    assert client.get("/healthz").status_code == 200


def bomb() -> bytes:
    """A PNG of a few hundred bytes that states 50,000 x 50,000 pixels."""
    small = io.BytesIO()
    Image.new("1", (8, 8)).save(small, "PNG")
    import struct
    import zlib

    header = b"IHDR" + struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    data = small.getvalue()
    return data[:8] + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def archives() -> dict[str, bytes]:
    """Archives sent as pictures: within each other down to gigabytes of zeros, as 42.zip is; with names of other folders."""
    inner = zipped({"zeros": bytes(10 << 20)})
    for _ in range(5):
        inner = zipped({f"{number}.zip": inner for number in range(16)})
    links = io.BytesIO()
    with tarfile.open(fileobj=links, mode="w:gz") as tar:
        link = tarfile.TarInfo("../../link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(link)
    return {
        "42.zip": inner,
        "leaving.zip": zipped({"../../evil.jpg": b"x", "/etc/cron.d/evil": b"x", "a/../../../evil": b"x"}),
        "leaving.tar.gz": links.getvalue(),
        "zeros.gz": gzip.compress(bytes(100 << 20)),
        "picture and archive": encoded(picture(), "JPEG") + inner,
    }


def zipped(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


@pytest.mark.slow
def test_bombs_and_archives_are_refused_and_leave_nothing_on_the_disk(
    tmp_path: Path, model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = painted_folder(tmp_path / "photos", model_path)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    harmless = {
        "picture and archive",
        "text.png",
        "many texts.png",
        "profile.png",
        "frames.gif",
        "frames.webp",
        "exif.jpg",
    }  # their pixels are few
    with client_of(config_of(folder, model_path, tokens=TOKENS)) as client:
        before = everything_below(tmp_path)
        for name, data in (archives() | bombs()).items():
            for encoding in ({}, {"Content-Encoding": "gzip"}):
                headers = bearer(WRITE) | {"Content-Type": "image/png"} | encoding
                sent = client.post("/v1/uploads", content=data, headers=headers)
                assert sent.status_code == 422 or (sent.status_code == 201 and name in harmless), name
                if sent.status_code == 422:
                    assert client.post("/v1/images", content=data, headers=headers).status_code == 422
                else:
                    assert len(client.get(sent.json()["picture"], headers=bearer(WRITE)).content) < 10_000
            assert everything_below(tmp_path) == before, name


def everything_below(folder: Path) -> dict[str, int]:
    """Each file and its size, but for the collection's own."""
    return {str(path): path.stat().st_size for path in folder.rglob("*") if path.is_file() and ".aladin" not in path.parts}


@pytest.mark.slow
def test_a_client_that_leaves_amid_its_picture_leaves_nothing(
    folder: Path, model_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    head = b"POST /v1/uploads HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 1000000\r\n\r\n"
    with server_of(config_of(folder, model_path, port=0)) as server:
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
                connection.sendall(head + bytes(500_000))
        answered = exchange(server.port, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert answered.startswith(b"HTTP/1.1 200")
        assert server.app.state.served.uploads._kept == {}
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.slow
def test_uploads_are_forgotten(folder: Path, model_path: Path, tmp_path: Path) -> None:
    limits = Limits(workers=1, upload_store_bytes=2500)
    with client_of(config_of(folder, model_path, limits=limits)) as client:
        sent = [
            client.post(
                "/v1/uploads",
                content=paint(tmp_path / "x.png", "red", seed=n).read_bytes(),
                headers={"Content-Type": "image/png"},
            )
            for n in range(12)
        ]
        found = [client.get(answer.json()["picture"]).status_code for answer in sent]
        assert found[-1] == 200
        assert found[0] == 404
    with client_of(config_of(folder, model_path, limits=Limits(workers=1, upload_seconds=0.0))) as client:
        sent_one = client.post(
            "/v1/uploads", content=paint(tmp_path / "x.png", "red").read_bytes(), headers={"Content-Type": "image/png"}
        )
        time.sleep(0.01)
        assert client.get(sent_one.json()["picture"]).status_code == 404


# What leaves the server.


@pytest.mark.slow
def test_only_pixels_leave_the_server(tmp_path: Path, model_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    picture = Image.open(paint(tmp_path / "x.png", "red", size=(120, 80))).convert("RGB")
    exif = Image.Exif()
    exif[0x010E] = "EXIF-SECRET"
    exif[0x0112] = 6  # turned
    exif.get_ifd(0x8825)[2] = (48.0, 8.0, 30.0)
    for kind in ("jpg", "png", "webp", "tiff"):
        extra: dict[str, Any] = {"comment": b"COMMENT-SECRET"} if kind == "jpg" else {}
        picture.save(folder / f"a.{kind}", exif=exif, xmp=b"<x:xmpmeta>XMP-SECRET</x:xmpmeta>", **extra)
    with CollectionWriter.create(default_file(folder), folder) as collection:
        index_folder(collection, Encoder.load(model_path, threads=1))
    with client_of(config_of(folder, model_path)) as client:
        images = client.get("/v1/images").json()["images"]
        assert len(images) == 4
        for image in images:
            facts = client.get(f"/v1/images/{image['id']}").text
            assert "SECRET" not in facts
            assert "latitude" not in facts
            for kind in ("thumbnail", "preview"):
                data = client.get(image[kind]).content
                assert b"SECRET" not in data
                assert b"Exif" not in data
                with Image.open(io.BytesIO(data)) as shown:
                    assert not shown.getexif()
                    assert "icc_profile" not in shown.info
                    assert shown.size == (80, 120)  # upright
        upload = client.post(
            "/v1/uploads", content=(folder / "a.jpg").read_bytes(), headers={"Content-Type": "image/jpeg"}
        ).json()
        assert b"SECRET" not in client.get(upload["picture"]).content


def test_nothing_is_fetched_from_a_url(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refused)
    for url in ("http://169.254.169.254/latest", "http://127.0.0.1:22/", "file:///etc/passwd", "gopher://x"):
        assert client.post("/v1/search", json={"images": [{"url": url}]}).status_code == 400
        assert client.post("/v1/search", json={"images": [{"id": url}]}).status_code == 400
        assert client.post("/v1/uploads", content=url.encode(), headers={"Content-Type": "image/jpeg"}).status_code == 422
