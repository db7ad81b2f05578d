import asyncio
import base64
import io
import json
import operator
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from starlette.testclient import TestClient

from aladin.collection.sqlite import Collection
from aladin.collection.store import default_file
from aladin.collection.writer import CollectionWriter
from aladin.encoder.encoder import Encoder
from aladin.errors import ConfigError, DataError
from aladin.search.query import Query, TextPart
from aladin.search.search import SearchConfig, Searcher
from aladin.server.ids import PublicIds
from aladin.server.rendering import Picture
from aladin.server.settings import Limits, ServeConfig, Tokens
from aladin.server.uploads import PictureCache
from tests.conftest import paint
from tests.serving import ADMIN, TOKENS, WRITE, bearer, client_of, config_of, ids_by_name, painted_folder, wait_until
from tests.tiny_model import COLOURS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, model_path: Path) -> Path:
    return painted_folder(tmp_path_factory.mktemp("served") / "photos", model_path)


@pytest.fixture(scope="module")
def client(folder: Path, model_path: Path) -> Iterator[TestClient]:
    with client_of(config_of(folder, model_path)) as asked:
        yield asked


def png(path: Path) -> bytes:
    return path.read_bytes()


# Searching.


def test_a_text_finds_what_the_engine_finds(client: TestClient, folder: Path, model_path: Path) -> None:
    answer = client.post("/v1/search", json={"text": "red and white", "top": 4}).json()
    with Collection.open(default_file(folder)) as collection:
        expected = Searcher(collection, Encoder.load(model_path)).search(
            Query((TextPart("red and white"),)), SearchConfig(top=4)
        )
    assert [(hit["name"], hit["score"], hit["rank"]) for hit in answer["hits"]] == [
        (hit.path, hit.score, hit.rank) for hit in expected.hits
    ]
    assert answer["searched"] == len(COLOURS) + 1
    assert set(answer["stages_ms"]) == {"encode", "nearest", "gather", "align"}


def test_why_adds_up_and_names_the_region(client: TestClient) -> None:
    flag = client.post("/v1/search", json={"text": "red", "why": True}).json()["hits"]
    hit = next(hit for hit in flag if hit["name"] == "flag.png")
    (share,) = hit["explanation"]["shares"]
    assert share["word"] == "red"
    assert share["box"]["x"] == 0
    assert share["contribution"] == pytest.approx(hit["score"], abs=1e-5)


def test_explain_says_what_a_search_with_why_says(client: TestClient) -> None:
    hit = client.post("/v1/search", json={"text": "red and blue", "why": True, "top": 1}).json()["hits"][0]
    assert client.post("/v1/explain", json={"text": "red and blue", "image": hit["id"]}).json() == hit["explanation"]


def test_without_puts_images_further_down(client: TestClient) -> None:
    plain = names(client.post("/v1/search", json={"text": "red"}))
    without = names(client.post("/v1/search", json={"text": "red", "without": ["blue"]}))
    assert without.index("flag.png") > plain.index("flag.png")


def test_a_query_of_texts_and_images_with_weights(client: TestClient) -> None:
    images = ids_by_name(client)
    body = {"texts": [{"text": "red", "weight": 0.1}], "images": [{"id": images["cold/deep/blue.png"], "weight": 5.0}]}
    hits = names(client.post("/v1/search", json=body))
    assert "cold/deep/blue.png" not in hits  # the query's own image is no hit
    assert hits[0] == "flag.png"


def test_similar_leaves_the_image_itself_out(client: TestClient) -> None:
    images = ids_by_name(client)
    hits = names(client.get(f"/v1/similar/{images['warm/red.png']}?top=3"))
    assert "warm/red.png" not in hits
    assert len(hits) == 3
    assert "pink.png" in hits[:2]


@pytest.mark.parametrize(("left", "colour"), [(0, "warm/red.png"), (66, "cold/deep/blue.png")])
def test_a_region_of_an_image_finds_what_is_in_it(client: TestClient, left: int, colour: str) -> None:
    flag = ids_by_name(client)["flag.png"]
    body = {"images": [{"id": flag, "box": {"x": left, "y": 4, "width": 28, "height": 50}}], "top": 3}
    hits = names(client.post("/v1/search", json=body))
    assert hits[0] == colour
    assert "flag.png" not in hits
    assert len(hits) == 3


def test_an_upload_is_searched_with_and_seen_again(client: TestClient, tmp_path: Path) -> None:
    sent = client.post(
        "/v1/uploads", content=png(paint(tmp_path / "x.png", "green", "red")), headers={"Content-Type": "image/png"}
    )
    assert sent.status_code == 201
    upload = sent.json()
    assert (upload["width"], upload["height"]) == (32, 24)
    right = {"upload": upload["upload"], "box": {"x": 17, "y": 0, "width": 15, "height": 24}}
    assert names(client.post("/v1/search", json={"images": [right]}))[0] == "warm/red.png"
    seen = client.get(upload["picture"])
    assert seen.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(seen.content)).size == (32, 24)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"folder": "warm"}, {"warm/red.png"}),
        ({"folder": "cold"}, {"cold/deep/blue.png"}),
        ({"folder": "war"}, set()),
        ({"where": "name LIKE 'f%'"}, {"flag.png"}),
        ({"where": "name = 'a' OR name = 'flag.png'", "folder": "warm"}, set()),
        ({"taken_to": "1999-12-31"}, set()),
        ({"taken_from": "2001-01-01", "folder": "warm"}, {"warm/red.png"}),
    ],
)
def test_filters_combine(client: TestClient, wanted: dict[str, str], found: set[str]) -> None:
    assert set(names(client.post("/v1/search", json={"text": "red", "filter": wanted}))) == found


def test_scores_are_those_of_the_search(client: TestClient) -> None:
    hits = client.post("/v1/search", json={"text": "red"}).json()["hits"][:3]
    body = {"texts": ["red", "blue"], "images": [hit["id"] for hit in hits]}
    scores = client.post("/v1/score", json=body).json()
    assert scores["alignment"][0] == pytest.approx([hit["score"] for hit in hits], abs=1e-6)
    assert scores["matching"][0] == pytest.approx([hit["matching_score"] for hit in hits], abs=1e-6)
    assert np.shape(scores["matching"]) == (2, 3)


def test_rerank_has_the_shape_of_coheres(client: TestClient) -> None:
    images = ids_by_name(client)
    documents = [images[name] for name in ("green.png", "warm/red.png", "flag.png")]
    results = client.post("/v1/rerank", json={"query": "red", "documents": documents, "top_n": 2}).json()["results"]
    assert {result["index"] for result in results} == {1, 2}
    assert results[0]["relevance_score"] >= results[1]["relevance_score"]


def test_embeddings_have_the_shape_of_openais(client: TestClient, model_path: Path) -> None:
    expected = Encoder.load(model_path).encode_texts(["red", "blue"]).vectors
    as_numbers = client.post("/v1/embeddings", json={"input": ["red", "blue"], "model": "any"}).json()
    as_text = client.post("/v1/embeddings", json={"input": "blue", "encoding_format": "base64"}).json()
    assert [entry["index"] for entry in as_numbers["data"]] == [0, 1]
    np.testing.assert_allclose([entry["embedding"] for entry in as_numbers["data"]], expected, rtol=1e-6)
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(as_text["data"][0]["embedding"]), "<f4"), expected[1])
    assert as_numbers["usage"] == {"prompt_tokens": 2, "total_tokens": 2}


def names(response: object) -> list[str]:
    return [hit["name"] for hit in response.json()["hits"]]  # type: ignore[attr-defined]


# Leafing.


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_pages_cover_every_image_once(client: TestClient, limit: int) -> None:
    found, cursor = [], None
    for _ in range(50):
        page = client.get("/v1/images", params={"limit": limit} | ({"cursor": cursor} if cursor else {})).json()
        found += [image["name"] for image in page["images"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert len(found) == len(set(found)) == len(COLOURS) + 1


def test_status_tells_folders_and_days(client: TestClient) -> None:
    status = client.get("/v1/status").json()
    assert status["images"] == {"ok": len(COLOURS) + 1}
    assert {entry["name"]: entry["images"] for entry in status["folders"]} == {"": 5, "cold/deep": 1, "warm": 1}
    assert status["first_date"] <= status["last_date"]
    assert status["indexing"]["state"] == "idle"


@given(number=st.integers(1, 2**40 - 1))
def test_opaque_ids_come_back_and_others_mean_nothing(number: int) -> None:
    ids, others = PublicIds(Path("/a")), PublicIds(Path("/b"))
    assert ids.stored(ids.of(number)) == number
    assert others.stored(ids.of(number)) != number


# Pictures.


def test_a_thumbnail_is_cached_by_its_version_and_confirmed_by_its_tag(client: TestClient) -> None:
    image = client.post("/v1/search", json={"text": "red", "top": 1}).json()["hits"][0]
    first = client.get(image["thumbnail"])
    assert "immutable" in first.headers["cache-control"]
    assert Image.open(io.BytesIO(first.content)).size == (96, 64)
    assert client.get(image["thumbnail"], headers={"If-None-Match": first.headers["etag"]}).status_code == 304
    assert "immutable" not in client.get(image["thumbnail"].split("?")[0]).headers["cache-control"]
    assert client.get(image["preview"]).headers["content-type"] == "image/jpeg"


@pytest.mark.slow
def test_a_picture_once_made_is_not_made_again(tmp_path: Path, model_path: Path) -> None:
    folder = painted_folder(tmp_path / "photos", model_path)
    with client_of(config_of(folder, model_path)) as client:
        image = client.post("/v1/search", json={"text": "red", "top": 1}).json()["hits"][0]
        first = client.get(image["thumbnail"]).content
        (folder / image["name"]).unlink()
        assert client.get(image["thumbnail"]).content == first


def test_pictures_are_kept_up_to_a_number_of_bytes_the_last_used_longest() -> None:
    cache = PictureCache(Limits(picture_cache_bytes=10_000))
    for number in range(50):
        cache.put((number, "1", 640, 80), Picture(bytes(1000), 4, 3, 4, 3))
        cache.get((0, "1", 640, 80))
    kept = [number for number in range(50) if cache.get((number, "1", 640, 80))]
    assert kept == [0, *range(41, 50)]
    cache.forget(0)
    assert cache.get((0, "1", 640, 80)) is None
    for number in range(50, 70):
        cache.put((number, "1", 640, 80), Picture(bytes(1000), 4, 3, 4, 3))
    assert len([number for number in range(70) if cache.get((number, "1", 640, 80))]) == 10


@pytest.mark.slow
def test_an_image_whose_file_is_gone_is_404_and_still_similar(tmp_path: Path, model_path: Path) -> None:
    folder = painted_folder(tmp_path / "photos", model_path)
    with client_of(config_of(folder, model_path)) as client:
        image = ids_by_name(client)["flag.png"]
        (folder / "flag.png").unlink()
        missing = client.get(f"/v1/images/{image}/thumbnail")
        assert (missing.status_code, missing.json()["detail"][:28]) == (404, "the image's file is not ther")
        assert client.get(f"/v1/similar/{image}").status_code == 200


# Errors say what the terminal says.


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ({"text": " \n"}, 422, "the query is empty; describe the image that you look for"),
        ({}, 422, "the query "),
        ({"text": "red", "filter": {"where": "nam = 'x'"}}, 422, "there is no column nam; did you mean name?"),
        ({"text": "red", "filter": {"where": "1) OR (1"}}, 422, "the condition is not understood at character"),
        ({"images": [{}]}, 422, "give one of the two"),
        ({"images": [{"id": "aaaaaaaaaaaaa"}]}, 404, "there is no image aaaaaaaaaaaaa"),
        ({"images": [{"upload": "a" * 22}]}, 404, "there is no such upload"),
        ({"text": "red", "top": 0}, 400, "top: input should be greater than or equal to 1"),
        ({"text": "red", "tops": 3}, 400, "tops: extra inputs are not permitted"),
        ({"text": 7}, 400, "text: input should be a valid string"),
        ({"text": "x" * 20_001}, 400, "text: string should have at most 20000 characters"),
    ],
)
def test_a_bad_search_is_one_sentence(client: TestClient, body: dict[str, object], status: int, sentence: str) -> None:
    answer = client.post("/v1/search", json=body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert sentence in answer.json()["detail"]
    assert answer.json()["status"] == status


@pytest.mark.parametrize("text", ["\0", "👩‍👩‍👧" * 3000, "\u202eder", "the of and", "z" * 20_000, " " * 300 + "red"])
def test_odd_queries_are_answered(client: TestClient, text: str) -> None:
    answer = client.post("/v1/search", json={"text": text})
    assert answer.status_code in (200, 422)


def test_a_lone_surrogate_is_refused(client: TestClient) -> None:
    answer = client.post("/v1/search", content=b'{"text": "\\ud800"}', headers={"Content-Type": "application/json"})
    assert answer.status_code == 400


@pytest.mark.slow
def test_a_folder_without_a_collection_is_told_to_be_indexed(tmp_path: Path, model_path: Path) -> None:
    with client_of(config_of(tmp_path, model_path)) as client:
        answer = client.post("/v1/search", json={"text": "red"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert answer.json()["detail"] == "there is no collection yet; make one with `aladin index FOLDER`"
        status = client.get("/v1/status").json()
        assert (status["images"], status["generation"]) == ({}, None)
        paint(tmp_path / "red.png", "red")
        with CollectionWriter.create(default_file(tmp_path), tmp_path) as collection:
            from aladin.collection.indexing import index_folder

            index_folder(collection, Encoder.load(model_path, threads=1))
        assert names(client.post("/v1/search", json={"text": "red"})) == ["red.png"]


@pytest.mark.slow
def test_another_model_is_named(folder: Path, other_model_path: Path) -> None:
    with client_of(config_of(folder, other_model_path)) as client:
        answer = client.post("/v1/search", json={"text": "red"})
        assert answer.status_code == 409
        assert "was built with model colours" in answer.json()["detail"]


# Adding and removing.


@pytest.mark.slow
def test_an_image_is_added_once_found_and_removed(tmp_path: Path, model_path: Path) -> None:
    folder = painted_folder(tmp_path / "photos", model_path)
    data = png(paint(tmp_path / "new.png", "yellow", seed=7))
    write = bearer(WRITE)
    with client_of(config_of(folder, model_path, tokens=TOKENS)) as client:
        added = client.post("/v1/images", content=data, headers=write | {"Content-Type": "image/png"})
        assert (added.status_code, added.json()["status"]) == (201, "ok")
        again = client.post("/v1/images", content=data, headers=write | {"Content-Type": "image/png"})
        assert again.json()["id"] == added.json()["id"]
        hits = client.post("/v1/search", json={"text": "yellow"}, headers=write).json()["hits"]
        assert added.json()["id"] in [hit["id"] for hit in hits[:2]]
        assert [path.suffix for path in (folder / "added").iterdir()] == [".png"]
        thumbnail = next(hit["thumbnail"] for hit in hits if hit["id"] == added.json()["id"])
        assert client.get(thumbnail, headers=write).status_code == 200
        assert client.delete(f"/v1/images/{added.json()['id']}", headers=write).status_code == 204
        assert client.get(thumbnail, headers=write).status_code == 404  # not from the cache either
        assert client.delete(f"/v1/images/{added.json()['id']}", headers=write).status_code == 404
        assert client.get(f"/v1/images/{added.json()['id']}", headers=write).status_code == 404
        hits = client.post("/v1/search", json={"text": "yellow"}, headers=write).json()["hits"]
        assert added.json()["id"] not in [hit["id"] for hit in hits]
        assert len(list((folder / "added").iterdir())) == 1  # the file stays
        back = client.post("/v1/images", content=data, headers=write | {"Content-Type": "image/png"})
        assert (back.json()["id"], back.json()["status"]) == (added.json()["id"], "ok")


@pytest.mark.slow
def test_adding_waits_for_no_other_writer(tmp_path: Path, model_path: Path) -> None:
    folder = painted_folder(tmp_path / "photos", model_path)
    with (
        client_of(config_of(folder, model_path, tokens=TOKENS)) as client,
        CollectionWriter.create(default_file(folder), folder),
    ):
        data = png(paint(tmp_path / "new.png", "yellow", seed=7))
        answer = client.post("/v1/images", content=data, headers=bearer(WRITE) | {"Content-Type": "image/png"})
    assert (answer.status_code, answer.headers["retry-after"]) == (409, "5")
    assert not (folder / "added").exists()


@pytest.mark.slow
def test_the_folder_is_read_in_the_background(tmp_path: Path, model_path: Path) -> None:
    folder = painted_folder(tmp_path / "photos", model_path)
    paint(folder / "late.png", "green", seed=50)
    with client_of(config_of(folder, model_path, tokens=TOKENS)) as client:
        assert client.post("/v1/index", headers=bearer(WRITE)).status_code == 202
        wait_until(lambda: client.get("/v1/status", headers=bearer(ADMIN)).json()["indexing"]["state"] == "idle")
        assert "late.png" in ids_by_name(client, **bearer(ADMIN))


# The service.


def test_health_metrics_and_document(client: TestClient) -> None:
    assert client.get("/healthz").json() == client.get("/livez").json() == client.get("/readyz").json() == {"status": "ok"}
    document = client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert "examples" in document["components"]["schemas"]["SearchIn"]
    client.post("/v1/search", json={"text": "a private red thing"})


@pytest.mark.slow
def test_metrics_count_by_route_and_stage_and_name_no_query(folder: Path, model_path: Path) -> None:
    with client_of(config_of(folder, model_path, tokens=TOKENS)) as client:
        client.post("/v1/search", json={"text": "private red"}, headers=bearer(ADMIN))
        figures = client.get("/metrics", headers=bearer(ADMIN)).text
    assert 'aladin_requests_total{method="POST",route="/v1/search",status="200"} 1.0' in figures
    assert 'aladin_stage_seconds_count{stage="encode"} 1.0' in figures
    assert f'aladin_index_rows{{status="ok"}} {len(COLOURS) + 1}.0' in figures
    assert "private" not in figures


@pytest.mark.slow
def test_more_searches_than_the_queue_holds_are_sent_away_and_none_is_lost(folder: Path, model_path: Path) -> None:
    config = config_of(folder, model_path, limits=Limits(workers=1, waiting=1))
    with client_of(config) as client:
        served = client.app.state.served  # type: ignore[attr-defined]
        running, release = threading.Event(), threading.Event()

        def hold() -> None:
            running.set()
            release.wait(30)

        served.searches.children.threads.submit(hold)
        running.wait(30)
        statuses: list[int] = []
        threads = [
            threading.Thread(target=lambda: statuses.append(client.post("/v1/search", json={"text": "red"}).status_code))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(statuses) == 6)  # the queue holds two
        assert set(statuses) == {503}
        assert client.get("/healthz").status_code == 200
        assert client.post("/v1/search", json={"text": "red"}).headers["retry-after"] == "1"
        release.set()
        for thread in threads:
            thread.join(30)
        assert sorted(statuses) == [200, 200, *[503] * 6]
        assert served.searches.taken == 0


@pytest.mark.slow
def test_a_search_whose_process_dies_is_told_to_come_again_and_the_next_is_answered(folder: Path, model_path: Path) -> None:
    with client_of(config_of(folder, model_path)) as client:
        served = client.app.state.served  # type: ignore[attr-defined]
        before = served.searches.children.all[0].process
        before.send_signal(signal.SIGSTOP)  # so that the search is under way for as long as we like
        answers: list[Any] = []
        thread = threading.Thread(target=lambda: answers.append(client.post("/v1/search", json={"text": "red"})))
        thread.start()
        wait_until(lambda: served.searches.taken == 1)
        before.kill()
        thread.join(60)
        assert (answers[0].status_code, answers[0].headers["retry-after"]) == (503, "1")
        assert answers[0].json()["detail"] == "the process that searched has ended; try again in 1 s"
        assert client.post("/v1/search", json={"text": "red"}).status_code == 200
        after = served.searches.children.all[0].process
        assert (before.returncode, after.poll()) == (-signal.SIGKILL, None)
    assert after.returncode == 0


@pytest.mark.slow
def test_a_bug_costs_one_answer_and_not_the_process(folder: Path, model_path: Path) -> None:
    with client_of(config_of(folder, model_path)) as client:
        searches = client.app.state.served.searches  # type: ignore[attr-defined]
        with pytest.raises(RuntimeError, match="met a bug"):
            asyncio.run(searches.run(operator.index))  # an engine is no number
        assert client.post("/v1/search", json={"text": "red"}).status_code == 200
        assert len(searches.children.all) == 1


# Starting and stopping.


def test_other_addresses_need_a_token(folder: Path, model_path: Path) -> None:
    with pytest.raises(ConfigError, match="can be reached from other machines, and there is no token"):
        ServeConfig(folder, default_file(folder), model_path, host="0.0.0.0")
    ServeConfig(folder, default_file(folder), model_path, host="0.0.0.0", tokens=TOKENS)
    ServeConfig(folder, default_file(folder), model_path, host="::1")


@pytest.mark.parametrize(
    "line", ["search short", "look 0123456789abcdef", "search", "0123456789abcdef", "search 0123456789abcdef x"]
)
def test_bad_tokens_are_refused_and_not_repeated(tmp_path: Path, line: str) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# mine\n\n{line}\n")
    file.chmod(0o600)
    with pytest.raises(ConfigError, match="line 3") as failure:
        Tokens.read(file)
    assert "0123456789abcdef" not in str(failure.value)
    file.chmod(0o644)
    with pytest.raises(DataError, match="run chmod 600"):
        Tokens.read(file)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_stops_the_server(folder: Path, model_path: Path, number: int, code: int) -> None:
    command = [
        sys.executable,
        "-m",
        "aladin",
        "serve",
        str(folder),
        "--model",
        str(model_path),
        "--port",
        "0",
        "--workers",
        "1",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "serving" in process.stderr.readline()
    process.send_signal(number)
    assert process.wait(30) == code
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()


@pytest.mark.slow
def test_a_port_in_use_is_said(folder: Path, model_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "aladin", "serve", str(folder), "--model", str(model_path), "--port", str(port)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "give another --port" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_answers_are_json_that_any_parser_takes(tmp_path: Path, model_path: Path) -> None:
    import os

    folder = tmp_path / "photos"
    paint(folder / "a.png", "red")
    (folder / "a.png").rename(folder / os.fsdecode(b"\xff\n<b>.png"))
    painted_folder(folder, model_path)
    with client_of(config_of(folder, model_path)) as client:
        found = json.loads(client.get("/v1/images").content.decode("utf-8"))
        image = next(image for image in found["images"] if "<b>" in image["name"])
        assert image["name"] == "\\xff\n<b>.png"
        assert client.get(image["thumbnail"]).status_code == 200
