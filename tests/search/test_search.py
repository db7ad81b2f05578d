import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from aladin.collection.indexing import index_folder
from aladin.collection.sqlite import Collection
from aladin.collection.store import default_file
from aladin.collection.tokens import QuantizedTokens
from aladin.collection.writer import CollectionWriter, FileState, Photograph
from aladin.encoder.encoder import Encoder
from aladin.errors import ConfigError, DataError, IndexMismatch, ModelError
from aladin.pictures.boxes import Box
from aladin.search.encoding import encode_query
from aladin.search.query import ImagePart, Query, TextPart
from aladin.search.search import SearchConfig, Searcher, as_json
from aladin.search.stage_two import align
from tests.conftest import fill, paint
from tests.reference import alignment
from tests.tiny_model import COLOURS, build_tiny_model


def text(words: str) -> Query:
    return Query((TextPart(words),))


def image(path: Path) -> Query:
    return Query((ImagePart(path),))


# The two stages.


@pytest.fixture
def rows(encoder: Encoder, tmp_path: Path) -> Iterator[CollectionWriter]:
    with CollectionWriter.create(tmp_path / "rows.sqlite", tmp_path) as collection:
        fill(collection, encoder.model, 50)
        yield collection


@pytest.mark.parametrize("query", [text("red and a blue picture"), text("pink")])
def test_two_stages_over_everything_equal_exhaustive_alignment(rows: CollectionWriter, encoder: Encoder, query: Query) -> None:
    words = encode_query(query, encoder, rows).parts[0].tokens
    tokens = rows.tokens(range(1, 51)).restored()
    scores = [alignment(regions, words, "MrSw") for regions in tokens]
    expected = sorted(range(1, 51), key=lambda number: (-scores[number - 1], number))
    results = Searcher(rows, encoder).search(query, SearchConfig(top=50, rerank=50))
    assert [hit.id for hit in results.hits] == expected
    assert_allclose([hit.score for hit in results.hits], sorted(scores, reverse=True), atol=1e-5)


def test_re_ranking_only_orders_the_nearest(rows: CollectionWriter, encoder: Encoder) -> None:
    query = text("green")
    matching = Searcher(rows, encoder).search(query, SearchConfig(top=20, rerank=0))
    both = Searcher(rows, encoder).search(query, SearchConfig(top=20, rerank=20))
    assert {hit.id for hit in both.hits} == {hit.id for hit in matching.hits}
    assert [hit.score for hit in matching.hits] == [hit.matching_score for hit in matching.hits]
    assert {hit.alignment_score for hit in matching.hits} == {None}
    assert [hit.score for hit in both.hits] == [hit.alignment_score for hit in both.hits]
    assert [hit.rank for hit in both.hits] == list(range(1, 21))


def test_no_fewer_are_re_ranked_than_asked_for(rows: CollectionWriter, encoder: Encoder) -> None:
    hits = Searcher(rows, encoder).search(text("green"), SearchConfig(top=30, rerank=5)).hits
    assert len(hits) == 30
    assert None not in {hit.alignment_score for hit in hits}


@pytest.mark.parametrize("top", [1, 5, 49, 50, 500])
def test_asking_for_fewer_hits_gives_the_first_of_more(rows: CollectionWriter, encoder: Encoder, top: int) -> None:
    all_hits = Searcher(rows, encoder).search(text("red"), SearchConfig(top=50, rerank=50)).hits
    assert Searcher(rows, encoder).search(text("red"), SearchConfig(top=top, rerank=50)).hits == all_hits[:top]


@pytest.mark.parametrize("rerank", [0, 100])
@pytest.mark.parametrize("count", [3, 64, 257])
def test_equal_scores_are_ordered_by_id(encoder: Encoder, tmp_path: Path, rerank: int, count: int) -> None:
    with CollectionWriter.create(tmp_path / "ties.sqlite", tmp_path) as collection:
        vector, tokens = (np.random.default_rng(5).normal(size=shape).astype(np.float32) for shape in ((1, 6), (1, 4, 8)))
        collection.use_model(encoder.model)
        with collection.transaction():
            photographs = [Photograph(FileState(f"{row}.png", 1, 1), b"", 1, 1, None) for row in range(count)]
            collection.add(photographs, vector.repeat(count, 0), tokens.repeat(count, 0))
        hits = Searcher(collection, encoder).search(text("red"), SearchConfig(top=count, rerank=rerank)).hits
    assert [hit.id for hit in hits] == list(range(1, count + 1))


def test_blocks_of_re_ranking_change_no_score(
    rows: CollectionWriter, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    query, numbers = encode_query(text("red"), encoder, rows), np.arange(50, 0, -1)
    whole = align(rows, query, numbers)
    monkeypatch.setattr("aladin.search.stage_two.BLOCK_TOKEN_SETS", 7)
    assert_array_equal(align(rows, query, numbers).by_part, whole.by_part)
    assert_array_equal(align(rows, query, numbers).scores, whole.scores)


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_the_best_of_all_blocks_are_explained(
    rows: CollectionWriter, encoder: Encoder, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr("aladin.search.stage_two.BLOCK_TOKEN_SETS", block)
    searcher = Searcher(rows, encoder)
    hits = searcher.search(text("red and a blue picture"), SearchConfig(top=9, rerank=50, why=True)).hits
    assert [hit.explanation for hit in hits] == [searcher.explain(text("red and a blue picture"), hit.id) for hit in hits]


def test_an_empty_collection_has_no_hits(encoder: Encoder, tmp_path: Path) -> None:
    with CollectionWriter.create(tmp_path / "empty.sqlite", tmp_path) as collection:
        results = Searcher(collection, encoder).search(text("red"))
    assert (results.hits, results.searched) == ((), 0)


# Photographs.


@pytest.fixture
def indexed(photos: Path, encoder: Encoder) -> Iterator[Collection]:
    with CollectionWriter.create(default_file(photos), photos) as collection:
        index_folder(collection, encoder)
    with Collection.open(default_file(photos)) as collection:
        yield collection


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("rerank", [0, 100])
def test_a_picture_is_found_by_its_colour(indexed: Collection, encoder: Encoder, colour: str, rerank: int) -> None:
    hits = Searcher(indexed, encoder).search(text(f"{colour} picture"), SearchConfig(rerank=rerank)).hits
    assert hits[0].path == f"{colour}.png"
    assert (hits[0].width, hits[0].height) == (32, 24)


def test_alignment_finds_both_halves_where_one_vector_sees_a_mixture(photos: Path, encoder: Encoder) -> None:
    paint(photos / "red blue.png", "red", "blue")
    with CollectionWriter.create(default_file(photos), photos) as collection:
        index_folder(collection, encoder)
        assert Searcher(collection, encoder).search(text("red and blue")).hits[0].path == "red blue.png"


def test_files_that_are_gone_or_unreadable_are_no_hits(photos: Path, encoder: Encoder) -> None:
    with CollectionWriter.create(default_file(photos), photos) as collection:
        index_folder(collection, encoder)
        (photos / "red.png").unlink()
        (photos / "blue.png").write_bytes(b"")
        index_folder(collection, encoder)
        results = Searcher(collection, encoder).search(text("red and blue"))
    assert {hit.path for hit in results.hits} == {f"{colour}.png" for colour in COLOURS} - {"red.png", "blue.png"}
    assert results.searched == len(COLOURS) - 2


def test_a_query_image_of_the_collection_is_no_hit_of_its_own(indexed: Collection, encoder: Encoder, photos: Path) -> None:
    results = Searcher(indexed, encoder).search(image(photos / "red.png"))
    assert [hit.path for hit in results.hits][:1] == ["pink.png"]
    assert len(results.hits) == results.searched == len(COLOURS) - 1


def test_a_copy_elsewhere_finds_its_original(indexed: Collection, encoder: Encoder, photos: Path, tmp_path: Path) -> None:
    hit = Searcher(indexed, encoder).search(image(Path(shutil.copy(photos / "red.png", tmp_path / "copy.png")))).hits[0]
    assert hit.path == "red.png"
    assert hit.score == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (lambda folder: text(" \n"), "the query is empty"),
        (lambda folder: text("\0"), "has no word that the model can read"),
        (lambda folder: image(folder / "none.png"), "there is no image file .*none.png"),
        (lambda folder: image(folder), "there is no image file"),
        (lambda folder: image(folder / ".aladin" / "collection.sqlite"), "known format|cannot be decoded"),
    ],
)
def test_a_query_that_asks_for_nothing_is_refused(
    indexed: Collection, encoder: Encoder, photos: Path, query: Callable[[Path], Query], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        Searcher(indexed, encoder).search(query(photos))


def test_a_long_query_is_searched_and_said_to_be_cut(indexed: Collection, encoder: Encoder) -> None:
    results = Searcher(indexed, encoder).search(text("red " * 50))
    assert results.truncated
    assert results.hits[0].path == "red.png"
    assert not Searcher(indexed, encoder).search(text("red")).truncated


def test_another_model_is_refused(indexed: Collection, other_model_path: Path) -> None:
    with pytest.raises(IndexMismatch):
        Searcher(indexed, Encoder.load(other_model_path)).search(text("red"))


@pytest.mark.parametrize(("pooling", "per_word"), [("MrSw", False), ("MrAVGw", True)])
def test_the_model_says_how_words_are_pooled(photos: Path, tmp_path: Path, pooling: str, per_word: bool) -> None:
    encoder = Encoder.load(build_tiny_model(tmp_path / "model", pooling))
    with CollectionWriter.create(tmp_path / "c.sqlite", photos) as collection:
        index_folder(collection, encoder)
        once, twice = (Searcher(collection, encoder).search(text(words)).hits[0].score for words in ("red", "red red"))
    assert twice == pytest.approx(once if per_word else 2 * once, rel=1e-4)


def test_a_model_of_another_pooling_is_refused(photos: Path, tmp_path: Path) -> None:
    encoder = Encoder.load(build_tiny_model(tmp_path / "model", "symm"))
    with (
        CollectionWriter.create(tmp_path / "c.sqlite", photos) as collection,
        pytest.raises(ModelError, match="scores by symm"),
    ):
        Searcher(collection, encoder).search(text("red"))


@pytest.mark.parametrize(("top", "rerank"), [(0, 1), (1, -1)])
def test_impossible_numbers_are_refused(top: int, rerank: int) -> None:
    with pytest.raises(ConfigError, match="expected at least 1 and 0"):
        SearchConfig(top, rerank)


# Queries of several parts.


def paths(collection: Collection, encoder: Encoder, query: Query, **options: object) -> list[str]:
    return [hit.path for hit in Searcher(collection, encoder).search(query, SearchConfig(**options)).hits]  # type: ignore[arg-type]


@pytest.fixture
def striped(photos: Path, encoder: Encoder) -> Iterator[Collection]:
    """One picture of each colour, and some of two."""
    for two in (("red", "blue"), ("red", "green"), ("white", "green")):
        paint(photos / f"{' '.join(two)}.png", *two)
    with CollectionWriter.create(default_file(photos), photos) as collection:
        index_folder(collection, encoder)
        yield collection


def test_several_texts_are_wanted_at_once(striped: Collection, encoder: Encoder) -> None:
    assert paths(striped, encoder, Query((TextPart("red"), TextPart("green"))))[0] == "red green.png"
    assert paths(striped, encoder, Query((TextPart("red"), TextPart("blue"))))[0] == "red blue.png"


def test_weights_shift_the_order(striped: Collection, encoder: Encoder) -> None:
    def first(red: float, blue: float) -> list[str]:
        return paths(striped, encoder, Query((TextPart("red", red), TextPart("blue", blue))), top=2)

    assert set(first(9.0, 1.0)) == {"red.png", "red blue.png"}
    assert set(first(1.0, 9.0)) == {"blue.png", "red blue.png"}


def test_what_is_not_wanted_sinks(striped: Collection, encoder: Encoder) -> None:
    assert paths(striped, encoder, text("red"), top=3)[-1] in ("red.png", "red blue.png", "red green.png")
    without = paths(striped, encoder, Query((TextPart("red"),), ("blue",)))
    assert {*without[:2]} == {"red.png", "red green.png"}
    assert without.index("red blue.png") > 3


def test_a_text_and_an_image_are_mixed(striped: Collection, encoder: Encoder, photos: Path) -> None:
    query = Query((TextPart("green"), ImagePart(photos / "red.png")))
    assert paths(striped, encoder, query)[0] == "red green.png"


def test_a_region_of_an_image_is_searched(striped: Collection, encoder: Encoder, photos: Path) -> None:
    green_half = ImagePart(photos / "white green.png", box=Box(17, 0, 15, 24))
    found = paths(striped, encoder, Query((green_half,)))
    assert set(found[:2]) == {"green.png", "red green.png"}
    assert "white green.png" not in found


@pytest.mark.parametrize("rerank", [0, 100])
def test_the_score_of_a_mixed_query_is_the_sum_of_its_parts(striped: Collection, encoder: Encoder, rerank: int) -> None:
    config = SearchConfig(rerank=rerank)
    mixed = Searcher(striped, encoder).search(Query((TextPart("red", 1.0), TextPart("blue", 3.0)), ("green",)), config).hits
    apart = [
        {hit.path: hit.score for hit in Searcher(striped, encoder).search(text(t), config).hits}
        for t in ("red", "blue", "green")
    ]
    for hit in mixed:
        red, blue, green = (scores[hit.path] for scores in apart)
        assert hit.score == pytest.approx(0.25 * red + 0.75 * blue - green, abs=1e-5)


# Conditions.


@pytest.mark.parametrize("rerank", [0, 100])
def test_only_images_that_meet_the_condition_are_hits(striped: Collection, encoder: Encoder, rerank: int) -> None:
    query = Query((TextPart("red"),), where="name LIKE 'red%' OR name = 'pink.png'")
    results = Searcher(striped, encoder).search(query, SearchConfig(rerank=rerank))
    assert {hit.path for hit in results.hits} == {"red.png", "red blue.png", "red green.png", "pink.png"}
    assert results.searched == 4
    assert [hit.path for hit in results.hits] == [
        path for path in paths(striped, encoder, text("red"), rerank=rerank) if path.startswith(("red", "pink"))
    ]


def test_a_condition_that_nothing_meets_leaves_no_hit(striped: Collection, encoder: Encoder) -> None:
    results = Searcher(striped, encoder).search(Query((TextPart("red"),), where="width > 10000"))
    assert (results.hits, results.searched, results.answered) == ((), 0, False)


# Explanations and probabilities.


def test_hits_are_explained_only_when_asked(striped: Collection, encoder: Encoder) -> None:
    assert {hit.explanation for hit in Searcher(striped, encoder).search(text("red")).hits} == {None}
    for hit in Searcher(striped, encoder).search(text("red"), SearchConfig(why=True)).hits:
        assert hit.explanation is not None
        assert [share.word for share in hit.explanation.shares] == ["red"]


class CountingCollection(Collection):
    """Notes the ids of the images whose tokens are read."""

    def tokens(self, numbers: Sequence[int]) -> QuantizedTokens:
        self.read = [*getattr(self, "read", []), *numbers]
        return super().tokens(numbers)


@pytest.mark.parametrize("rerank", [3, 100])
def test_an_explained_search_reads_no_token_twice(striped: Collection, encoder: Encoder, photos: Path, rerank: int) -> None:
    with CountingCollection.open(striped.path) as collection:
        query = Query((TextPart("red and white"), ImagePart(photos / "green.png")), ("blue",))
        results = Searcher(collection, encoder).search(query, SearchConfig(top=3, rerank=rerank, why=True))
        assert None not in {hit.explanation for hit in results.hits}
        assert len(collection.read) == len(set(collection.read)) == min(rerank, results.searched)


CALIBRATION = """
[calibration]
intercept = -3.0
slope = 3.0
length_intercept = 0.0
length_slope = 0.0
mean = 0.0
deviation = 0.3
data = "six colours"
"""


@pytest.fixture
def calibrated(tmp_path: Path, model_path: Path) -> Encoder:
    folder = Path(shutil.copytree(model_path, tmp_path / "calibrated"))
    with (folder / "model.toml").open("a") as file:
        file.write(CALIBRATION)
    return Encoder.load(folder, threads=1)


def test_a_hit_says_how_likely_it_is(striped: Collection, calibrated: Encoder, encoder: Encoder) -> None:
    hits = Searcher(striped, calibrated).search(text("red")).hits
    shares = {hit.path: hit.probability or 0.0 for hit in hits}
    assert [*shares.values()] == sorted(shares.values(), reverse=True)
    assert shares["red.png"] > 0.9 > 0.1 > shares["blue.png"]
    assert [hit.score for hit in hits] == [hit.score for hit in Searcher(striped, encoder).search(text("red")).hits]


def test_without_calibration_nothing_is_called_likely(striped: Collection, encoder: Encoder) -> None:
    results = Searcher(striped, encoder).search(text("red"))
    assert {hit.probability for hit in results.hits} == {None}
    assert results.answered is None
    with pytest.raises(ConfigError, match=r"the model has no calibration; .*aladin calibrate"):
        Searcher(striped, encoder).search(text("red"), SearchConfig(min_probability=0.5))


def test_an_image_as_query_has_no_probability(striped: Collection, calibrated: Encoder, photos: Path) -> None:
    for query in (image(photos / "red.png"), Query((TextPart("red"), ImagePart(photos / "red.png")))):
        results = Searcher(striped, calibrated).search(query)
        assert {hit.probability for hit in results.hits} == {None}
        assert results.answered is None
        with pytest.raises(ConfigError, match="probabilities are known for texts"):
            Searcher(striped, calibrated).search(query, SearchConfig(min_probability=0.5))


def test_parts_are_likely_together_and_unwanted_ones_unlikely(striped: Collection, calibrated: Encoder) -> None:
    def probabilities(query: Query) -> dict[str, float]:
        return {hit.path: hit.probability or 0.0 for hit in Searcher(striped, calibrated).search(query).hits}

    red, blue = probabilities(text("red")), probabilities(text("blue"))
    both = probabilities(Query((TextPart("red"), TextPart("blue"))))
    without = probabilities(Query((TextPart("red"),), ("blue",)))
    for path in both:
        assert both[path] == pytest.approx(red[path] * blue[path], abs=1e-9)
        assert without[path] == pytest.approx(red[path] * (1 - blue[path]), abs=1e-9)


def test_hits_below_the_least_probability_are_left_out(striped: Collection, calibrated: Encoder) -> None:
    every = Searcher(striped, calibrated).search(text("red"))
    some = Searcher(striped, calibrated).search(text("red"), SearchConfig(min_probability=0.5))
    assert some.hits == tuple(hit for hit in every.hits if (hit.probability or 0) >= 0.5)
    assert 0 < len(some.hits) < len(every.hits)
    assert (some.answered, some.nearest) == (True, ())


def test_when_nothing_matches_the_nearest_are_told(striped: Collection, calibrated: Encoder) -> None:
    unknown = text("zebra")
    assert Searcher(striped, calibrated).search(unknown).answered is False
    assert Searcher(striped, calibrated).search(unknown).hits
    results = Searcher(striped, calibrated).search(unknown, SearchConfig(min_probability=0.5))
    assert (results.hits, results.answered) == ((), False)
    assert results.nearest == Searcher(striped, calibrated).search(unknown).hits[:3]


@pytest.mark.parametrize("setting", [{"why": True}, {"min_probability": 0.5}])
def test_without_ranking_again_nothing_can_be_explained(setting: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="let rerank be above 0"):
        SearchConfig(rerank=0, **setting)  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_an_impossible_probability_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match="expected 0 to 1"):
        SearchConfig(min_probability=share)


def test_results_and_queries_are_plain_values_for_json(striped: Collection, calibrated: Encoder, photos: Path) -> None:
    query = Query((TextPart("red"), ImagePart(photos / "red.png", box=Box(0, 0, 5, 5)), ImagePart(b"1234")), ("blue",))
    plain = json.loads(json.dumps(as_json(query)))
    assert plain["wanted"][1] == {
        "source": str(photos / "red.png"),
        "weight": 1.0,
        "box": {"x": 0, "y": 0, "width": 5, "height": 5},
    }
    assert plain["wanted"][2]["source"] == "4 bytes"
    results = Searcher(striped, calibrated).search(text("red blue"), SearchConfig(why=True))
    hit = json.loads(json.dumps(as_json(results), allow_nan=False))["hits"][0]
    assert hit["path"] == results.hits[0].path
    assert hit["explanation"]["shares"][1]["word"] == "blue"
    assert set(as_json(results)["seconds"]) == {"encode", "nearest", "gather", "align"}


# One collection for many queries.


def test_a_searcher_sees_what_is_added_and_taken_away(photos: Path, encoder: Encoder) -> None:
    with CollectionWriter.create(default_file(photos), photos) as writer:
        index_folder(writer, encoder)
        with Collection.open(default_file(photos)) as collection:
            searcher = Searcher(collection, encoder)
            assert searcher.search(text("red")).hits[0].path == "red.png"
            paint(photos / "another.png", "red", seed=5)
            (photos / "red.png").unlink()
            index_folder(writer, encoder)
            found = [hit.path for hit in searcher.search(text("red")).hits]
    assert found[0] == "another.png"
    assert "red.png" not in found


@pytest.mark.slow
def test_a_searcher_refuses_a_collection_that_was_rebuilt_by_another_model(
    photos: Path, encoder: Encoder, other_model_path: Path
) -> None:
    other = Encoder.load(other_model_path)
    with CollectionWriter.create(default_file(photos), photos) as writer:
        index_folder(writer, encoder)
        with Collection.open(default_file(photos)) as collection:
            searcher = Searcher(collection, encoder)
            searcher.search(text("red"))
            writer.rebuild(other.model)
            index_folder(writer, other)
            with pytest.raises(IndexMismatch):
                searcher.search(text("red"))


# Faithful to full precision (Q4), and the same whoever computes (Q5).


def kendall_tau(one: np.ndarray, other: np.ndarray) -> float:
    """Of all pairs, how many stand in the same order, less how many do not."""
    pairs = np.triu_indices(len(one), 1)
    signs = (np.sign(values[:, None] - values[None])[pairs] for values in (one, other))
    return float(np.mean(next(signs) * next(signs)))


@pytest.mark.parametrize("pooling", ["MrSw", "MrAVGw"])
def test_int8_tokens_rank_as_full_precision_does(tmp_path: Path, pooling: str) -> None:
    encoder = Encoder.load(build_tiny_model(tmp_path / "model", pooling), threads=1)
    with CollectionWriter.create(tmp_path / "rows.sqlite", tmp_path) as collection:
        _, tokens = fill(collection, encoder.model, 300)
        for words in ("red and a blue picture", "pink", "white and green pictures"):
            encoded = encode_query(text(words), encoder)
            exact = np.array([alignment(regions, encoded.parts[0].tokens, pooling) for regions in tokens])
            stored = align(collection, encoded, np.arange(1, 301)).scores
            assert kendall_tau(stored, exact) >= 0.99


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_threads_change_no_hit(striped: Collection, model_path: Path, photos: Path, threads: int) -> None:
    alone = Searcher(striped, Encoder.load(model_path, threads=1))
    many = Searcher(striped, Encoder.load(model_path, threads=threads))
    for query in (text("red and blue"), Query((TextPart("red"), TextPart("green")), ("blue",)), image(photos / "red.png")):
        one, other = (searcher.search(query, SearchConfig(why=True)).hits for searcher in (alone, many))
        assert one == other
