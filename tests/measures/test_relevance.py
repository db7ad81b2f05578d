import copy
import dataclasses
import importlib
import json
import stat
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aladin.datasets import Dataset, Example, FileOnDisk, read_dataset
from aladin.errors import ConfigError, DataError
from aladin.measures.graded import AveragePrecisionAtR, GradedRPrecision, RPrecision
from aladin.measures.judging import Orders, judged_values
from aladin.measures.protocols import PROTOCOLS, Fold, Protocol, chosen, folds
from aladin.measures.recalls import DIRECTIONS, RECALLS, Direction, Recall, right_answer_ranks
from aladin.measures.relevance.coco import CocoIds, PlausibleMatch, coco_ids, plausible_match, read_sets, shipped_sets
from aladin.measures.relevance.matrices import RelevanceMatrix, computed_matrix, read_matrix
from aladin.measures.relevance.named import Judging, named_judge
from aladin.measures.relevance.rouge import RougeL
from aladin.measures.relevance.sources import Judge, Relevances, RelevanceSets
from aladin.measures.relevance.spice import Spice, SpiceProgram
from tests import reference

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "rouge_l.json").read_text())
WORDS = st.lists(st.sampled_from(["a", "A", "dog", "dogs", "runs", "ünï", "."]), min_size=1, max_size=8)

few_examples = settings(max_examples=30)
both_directions = pytest.mark.parametrize("direction", DIRECTIONS)


def dataset(images: dict[str, list[str]]) -> Dataset:
    """A data set of these captions, by the images' names."""
    return Dataset(tuple(Example(name, tuple(texts), "test", FileOnDisk(Path(name))) for name, texts in images.items()))


# ROUGE-L


@few_examples
@given(images=st.lists(st.lists(WORDS, min_size=1, max_size=3), min_size=1, max_size=4))
def test_rouge_l_is_what_its_definition_says(images: list[list[list[str]]]) -> None:
    texts = [[" ".join(words) for words in captions] for captions in images]
    captions = [text for some in texts for text in some]
    scorer = RougeL(captions, np.repeat(np.arange(len(texts)), [len(some) for some in texts]))
    expected = [[reference.rouge_l(caption, some) for some in texts] for caption in captions]
    np.testing.assert_allclose(scorer.rows(slice(0, len(captions))), expected, atol=1e-6)


def test_rouge_l_is_that_of_the_coco_caption_evaluation() -> None:
    images = GOLDEN["images"]
    captions = [caption for some in images for caption in some]
    scorer = RougeL(captions, np.repeat(np.arange(len(images)), 5))
    np.testing.assert_allclose(scorer.rows(slice(0, 15)), GOLDEN["rouge_l"], atol=1e-6)
    np.testing.assert_allclose(scorer.rows(slice(4, 9)), GOLDEN["rouge_l"][4:9], atol=1e-6)


def test_rouge_l_of_a_case_worked_out_by_hand() -> None:
    """'the dog runs' and 'a dog runs fast': 2 words of 3 and of 4 in common, so P 2/3, R 1/2, F 2.44 P R / (R + 1.44 P)."""
    found = RougeL(["The dog runs", "a dog runs fast"], np.array([0, 1])).rows(slice(0, 1))
    assert found[0] == pytest.approx([1.0, 2.44 * (2 / 3) * 0.5 / (0.5 + 1.44 * 2 / 3)])


SPACED = [
    "a dog  runs",
    "a dog runs ",
    " a dog runs",
    "a\tdog runs",
    "a dog\u00a0runs",
    "a dog\nruns",
    "a dog runs",
    "A Dog\tRuns",
]


def test_only_single_spaces_part_words_of_rouge_l_as_in_the_original() -> None:
    """'a dog runs' has 3 words, 'a dog  runs' and 'a dog runs ' have 4 of which one is empty, 'a\\tdog runs' has 2."""
    expected = [[reference.rouge_l(caption, [other]) for other in SPACED] for caption in SPACED]
    found = RougeL(SPACED, np.arange(len(SPACED))).rows(slice(0, len(SPACED)))
    np.testing.assert_allclose(found, expected, atol=1e-6)

    def f(precision: float, recall: float) -> float:
        return 2.44 * precision * recall / (recall + 1.44 * precision)

    assert found[6, :2] == pytest.approx([f(1, 3 / 4), f(1, 3 / 4)])
    assert found[0, 1] == pytest.approx(f(3 / 4, 3 / 4))  # the empty words stand elsewhere
    assert found[6, 3:6] == pytest.approx([f(1 / 3, 1 / 2)] * 3)
    assert (found[7, 3], found[7, 6]) == pytest.approx((0, f(1 / 2, 1 / 3)))


def test_a_captions_spaces_at_its_ends_are_read_for_rouge_l_and_nothing_else(tmp_path: Path) -> None:
    rows = [{"image": f"{number}.png", "captions": [f"{end}a dog{end}", "a cat"]} for number, end in enumerate(("", " ", "\t"))]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for number in range(3):
        (tmp_path / f"{number}.png").touch()
    data = read_dataset(tmp_path / "data.jsonl")
    assert data.captions == ("a dog", "a cat") * 3
    assert data.captions_as_written == ("a dog", "a cat", " a dog ", "a cat", "\ta dog\t", "a cat")
    first = chosen(data, dataclasses.replace(PROTOCOLS["full"], captions=1))
    assert first.captions_as_written == ("a dog", " a dog ", "\ta dog\t")
    judging = Judging(data, PROTOCOLS["full"], None, tmp_path, 2**20, lambda name: nullcontext(lambda *_: None), print)
    found = named_judge("ndcg-rouge", judging).relevances.rows("text_to_image", np.arange(6), slice(0, 3))
    assert found[0, 1] == pytest.approx(2.44 * 1 * 0.5 / (0.5 + 1.44))  # two words of two, of four


def test_words_beyond_sixty_four_count() -> None:
    caption = " ".join(f"word{n}" for n in range(150))
    assert RougeL([caption, f"other {caption}"], np.array([0, 1])).rows(slice(0, 1))[0, 1] == pytest.approx(
        reference.rouge_l(caption, [f"other {caption}"])
    )


# Matrices on disk


def test_an_interrupted_computation_goes_on_where_it_was(tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).random((7, 3)).astype(np.float32)
    asked: list[slice] = []

    def compute(rows: slice, fails_at: int = 99) -> np.ndarray:
        if rows.start >= fails_at:
            raise KeyboardInterrupt
        asked.append(rows)
        return matrix[rows]

    with pytest.raises(KeyboardInterrupt):
        computed_matrix(lambda rows: compute(rows, 4), (7, 3), 2, tmp_path / "cache" / "m.npy")
    told: list[tuple[int, int]] = []
    found = computed_matrix(compute, (7, 3), 2, tmp_path / "cache" / "m.npy", lambda *done: told.append(done))
    assert found.tolist() == matrix.tolist()
    assert asked == [slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 7)]
    assert told == [(6, 7), (7, 7)]
    asked.clear()
    assert computed_matrix(compute, (7, 3), 2, tmp_path / "cache" / "m.npy").tolist() == matrix.tolist()
    assert asked == []


@pytest.mark.parametrize("bare", [False, True])
def test_a_matrix_is_read_as_npy_and_as_the_bare_numbers_of_the_paper(tmp_path: Path, bare: bool) -> None:
    matrix = np.random.default_rng(0).random((10, 2)).astype(np.float32)
    path = tmp_path / "coco-test-spice.npy"
    matrix.tofile(path) if bare else np.save(path, matrix)
    found, digest = read_matrix(path, (10, 2))
    assert found.tolist() == matrix.tolist()
    np.save(tmp_path / "other.npy", matrix[::-1].copy())
    assert digest != read_matrix(tmp_path / "other.npy", (10, 2))[1]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (np.zeros((4, 2), np.float32), "holds nothing but zeros"),
        (np.full((4, 2), -1.0, np.float32), "holds -1.0 for caption 0 and image 0 where 0 to 1 was expected"),
        (np.array([[0, 1], [1, np.nan], [0, 0], [0, 0]], np.float32), "holds nan for caption 1 and image 1"),
        (np.ones((2, 4), np.float32), "holds 2 x 4 numbers where 4 captions x 2 images were expected"),
        (np.ones((4, 2)), "holds float64 where float32 was expected"),
        (b"\0" * 31, "is no .npy and has 31 bytes where bare float32 for 4 captions x 2 images would have 32"),
        (b"\x93NUMPY\x01\x00broken", "cannot be read as a relevance matrix"),
        (None, "there is no relevance matrix"),
    ],
)
def test_a_matrix_that_does_not_fit_is_refused(tmp_path: Path, content: np.ndarray | bytes | None, sentence: str) -> None:
    path = tmp_path / "m.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(DataError, match=sentence):
        read_matrix(path, (4, 2))


@both_directions
@few_examples
@given(data=st.data())
def test_every_kind_of_relevance_gives_the_rows_and_candidates_asked_for(direction: Direction, data: st.DataObject) -> None:
    """A matrix, sets and labels of 4 images with 2 captions each, against their whole tables."""
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    matrix = random.random((8, 4)).astype(np.float32)
    sets = {d: {1: [0, 3], 2: [1]} for d in DIRECTIONS}
    labels = random.random((4, 3)) < 0.5
    owners = np.repeat(np.arange(4), 2)
    images, captions = np.arange(4), owners
    asked, found = (images, captions) if direction == "image_to_text" else (captions, images)
    distance = (labels[asked][:, None] != labels[found][None]).sum(axis=2).astype(float)
    labelled = np.where(labels[found].any(axis=1), np.maximum(3 - distance, 0), np.nan)
    in_sets = np.array([[float(c in sets[direction].get(q, ())) for c in range(len(found))] for q in range(len(asked))])
    kinds: list[tuple[Relevances, np.ndarray, list[int]]] = [
        (RelevanceMatrix(matrix), matrix if direction == "text_to_image" else matrix.T, list(range(len(asked)))),
        (RelevanceSets(sets), in_sets, [1, 2]),
        (PlausibleMatch(labels, owners), labelled, np.flatnonzero(labels[asked].any(axis=1)).tolist()),
    ]
    for relevances, table, judged in kinds:
        assert relevances.queries(direction).tolist() == judged
        some = np.array([query for query in judged if data.draw(st.booleans())], dtype=np.int64)
        start = data.draw(st.integers(0, len(found) - 1))
        stop = data.draw(st.integers(start + 1, len(found)))
        if len(some):
            np.testing.assert_array_equal(relevances.rows(direction, some, slice(start, stop)), table[some, start:stop])


# COCO's ids and sets

COCO = {
    "val2014/COCO_val2014_000000000007.jpg": ["a dog", "two  dogs "],
    "COCO_val2014_000000000012.jpg": ["a cat", "a cat", "a dog"],
}


def coco_json(path: Path, karpathy: bool) -> Path:
    """COCO's captions of these images, with ids 100 and up in another order than the data's."""
    records = [(12, 100, "a dog"), (7, 101, "two dogs"), (12, 102, "a cat\n"), (7, 103, "a dog"), (12, 104, "a cat")]
    if karpathy:
        images = [
            {"cocoid": image, "sentences": [{"sentid": number, "raw": text} for of, number, text in records if of == image]}
            for image in (7, 12)
        ]
        path.write_text(json.dumps({"images": images}))
    else:
        annotations = [{"image_id": image, "id": number, "caption": text} for image, number, text in records]
        path.write_text(json.dumps({"images": [], "annotations": annotations}))
    return path


@pytest.mark.parametrize("karpathy", [False, True])
def all_ids_are_found_by_the_end_of_an_images_name_and_the_text_of_a_caption(tmp_path: Path, karpathy: bool) -> None:
    ids = coco_ids(dataset(COCO), coco_json(tmp_path / "captions.json", karpathy))
    assert ids.images.tolist() == [7, 12]
    assert ids.captions.tolist() == [103, 101, 102, 104, 100]


@pytest.mark.parametrize(
    ("images", "content", "sentence"),
    [
        ({"dog.jpg": ["a dog"]}, {"annotations": []}, "image 'dog.jpg' has no COCO id at the end of its name"),
        ({"7.jpg": ["a bird"]}, {"annotations": []}, "has no caption 'a bird' of image 7"),
        (COCO, {"annotations": [{"id": 1}]}, "number 1 of its annotations has no image_id, expected a number or text"),
        (COCO, {"images": 3}, "its images are a number, expected a list"),
        (COCO, [], "it holds a list, expected an object"),
    ],
)
def all_ids_that_cannot_be_found_are_one_sentence(
    tmp_path: Path, images: dict[str, list[str]], content: object, sentence: str
) -> None:
    path = tmp_path / "captions.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=sentence):
        coco_ids(dataset(images), path)
    path.write_text("{")
    with pytest.raises(DataError, match=r"is not JSON|has no COCO id"):
        coco_ids(dataset(images), path)


def write_sets(folder: Path, image_to_caption: object, caption_to_image: object, name: str = "pm") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}_image_to_caption.json").write_text(json.dumps(image_to_caption))
    (folder / f"{name}_caption_to_image.json").write_text(json.dumps(caption_to_image))
    return folder


def test_sets_become_rows_and_captions_that_are_not_there_are_counted(tmp_path: Path) -> None:
    ids = coco_ids(dataset(COCO), coco_json(tmp_path / "captions.json", karpathy=False))
    folder = write_sets(tmp_path / "pm", {"12": [100, 101, 999]}, {"103": [7, 12], "998": [7]})
    found = read_sets(folder, "pm", ids)
    assert found.missing == 2
    assert found.relevances.right == {"image_to_text": {1: [4, 1]}, "text_to_image": {0: [0, 1]}}
    write_sets(folder, {"13": [100]}, {"103": [7]})
    with pytest.raises(DataError, match="judges 1 images of which 1 are not in the data, such as 13; give COCO's 5,000"):
        read_sets(folder, "pm", ids)
    write_sets(folder, {"12": 3}, {})
    with pytest.raises(DataError, match="is no object of lists of ids"):
        read_sets(folder, "pm", ids)


# Against the package eccv-caption, on its own sets


@pytest.fixture(scope="module")
def metrics() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks for ujson
        from eccv_caption import Metrics

        return Metrics()


@pytest.fixture(scope="module")
def all_ids(metrics: Any) -> CocoIds:
    """The ids of COCO's test images and captions, without COCO."""
    images = metrics.coco_gts["i2t"]
    return CocoIds(np.array(list(images)), np.array([number for some in images.values() for number in some]))


@pytest.mark.slow
@both_directions
@pytest.mark.parametrize("name", ["eccv", "cxc"])
def test_figures_are_those_of_eccv_caption(
    metrics: Any, all_ids: CocoIds, name: Literal["eccv", "cxc"], direction: Direction
) -> None:
    """Of random scores that favour right answers, for some of the judged queries.

    Two captions that ECCV Caption calls right are not among the 25,000 that the package itself lists for COCO.
    """
    found = shipped_sets(name, all_ids)
    assert found.missing == {"eccv": 2, "cxc": 0}[name]
    short = "i2t" if direction == "image_to_text" else "t2i"
    asked, answers = (all_ids.images, all_ids.captions) if short == "i2t" else (all_ids.captions, all_ids.images)
    chosen = found.relevances.queries(direction)[:: {"eccv": 10, "cxc": 100}[name]]
    scores = {query: np.random.default_rng(query).random(len(answers)) for query in chosen.tolist()}
    for query, right in found.relevances.right[direction].items():
        if query in scores:
            scores[query][np.array(right)] += 0.95 * np.random.default_rng(query).random(len(right))
    measures = {str(measure): measure for measure in (*RECALLS, RPrecision(), AveragePrecisionAtR())}
    judge = Judge(name, RelevanceSets({direction: {q: found.relevances.right[direction][q] for q in scores}}), measures)
    whole = Fold(slice(0, 5000), slice(0, 25000))
    ours = judged_values([judge], direction, whole, (Orders.by(row[None], slice(q, q + 1)) for q, row in scores.items()))

    ranked = {short: {int(asked[q]): answers[np.argsort(-row)[:60]].tolist() for q, row in scores.items()}}
    known = set(answers.tolist())
    sets = {short: {q: [n for n in getattr(metrics, f"{name}_gts")[short][q] if n in known] for q in ranked[short]}}
    theirs = changed_metrics(metrics, **{f"{name}_gts": sets})
    for k in (1, 5, 10):
        expected = getattr(theirs, f"{name}_recalls")(ranked, short, K=k)[short]
        assert np.nanmean(ours[f"Recall@{k}"]) == pytest.approx(100 * expected)
    if name == "eccv":
        expected = theirs.eccv_metrics(ranked, short)
        assert np.nanmean(ours["mAP@R"]) == pytest.approx(100 * expected["eccv_map_at_r"][short], abs=1e-3)
        assert np.nanmean(ours["R-Precision"]) == pytest.approx(100 * expected["eccv_rprecision"][short], abs=1e-3)
        assert 1 < np.nanmean(ours["mAP@R"]) < 99


def changed_metrics(metrics: Any, **changed: Any) -> Any:
    fresh = copy.copy(metrics)
    for name, value in changed.items():
        setattr(fresh, name, value)
    return fresh


def test_five_folds_are_those_of_eccv_caption(metrics: Any) -> None:
    """Ten images with two captions each, in five folds of two."""
    images, captions = [1000 + n for n in range(10)], list(range(20))
    scores = np.random.default_rng(0).random((10, 20)).astype(np.float32)
    own = {"i2t": {i: captions[2 * n : 2 * n + 2] for n, i in enumerate(images)}, "t2i": {c: [1000 + c // 2] for c in captions}}
    ranked = {
        "i2t": {image: np.argsort(-scores[n]).tolist() for n, image in enumerate(images)},
        "t2i": {caption: (1000 + np.argsort(-scores[:, caption])).tolist() for caption in captions},
    }
    theirs = changed_metrics(metrics, coco_gts=own, coco_ids=np.array(captions))
    parts = folds([2] * 10, Protocol("ten", None, None, (), folds=5))
    for direction, short in (("image_to_text", "i2t"), ("text_to_image", "t2i")):
        ranks = [right_answer_ranks(scores[fold.images, fold.captions], np.array([0, 0, 1, 1]), direction) for fold in parts]
        for k in (1, 2):
            expected = theirs.coco_1k_recalls(ranked, "all", K=k)[short]
            assert Recall(k)(np.concatenate(ranks)) == pytest.approx(100 * expected)


def test_plausible_match_of_a_folder_is_that_of_eccv_caption(metrics: Any, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images, captions = [1000 + n for n in range(8)], list(range(16))
    right = {
        "i2t": {image: random.choice(captions, random.integers(1, 9), replace=False).tolist() for image in images},
        "t2i": {caption: random.choice(images, random.integers(1, 5), replace=False).tolist() for caption in captions},
    }
    folder = write_sets(tmp_path / "pm", right["i2t"], right["t2i"])
    found = read_sets(folder, "pm", CocoIds(np.array(images), np.array(captions))).relevances
    scores = random.random((8, 16))
    ranked = {
        "i2t": {image: np.argsort(-scores[n]).tolist() for n, image in enumerate(images)},
        "t2i": {caption: (1000 + np.argsort(-scores[:, caption])).tolist() for caption in captions},
    }
    expected = changed_metrics(metrics, pm_gts=right).pmrp(ranked, "all")
    judge = Judge("pm", found, {"R-Precision": RPrecision()})
    for direction, short in (("image_to_text", "i2t"), ("text_to_image", "t2i")):
        rows = scores if short == "i2t" else scores.T
        whole = Fold(slice(0, 8), slice(0, 16))
        ours = judged_values([judge], direction, whole, [Orders.by(rows, slice(0, len(rows)))])["R-Precision"]
        assert np.nanmean(ours) == pytest.approx(100 * expected[short], abs=1e-3)


# Plausible Match by labels


def test_pmrp_of_a_case_worked_out_by_hand(tmp_path: Path) -> None:
    """Image 1 shows classes 1 and 2, image 2 only 1, image 3 shows 5 to 7, image 4 nothing; one caption each."""
    labels = {1: [1, 2], 2: [1, 1], 3: [5, 6, 7]}
    records = [{"image_id": image, "category_id": number} for image, some in labels.items() for number in some]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({"annotations": [*records, {"image_id": 99, "category_id": 3}]}))
    data = dataset({f"{n}.jpg": [f"caption {n}"] for n in (1, 2, 3, 4)})
    match, _ = plausible_match(data, path)
    assert match.queries("text_to_image").tolist() == [0, 1, 2]
    np.testing.assert_array_equal(
        match.rows("text_to_image", np.array([0, 1, 2]), slice(0, 4)),
        [[3, 2, 0, np.nan], [2, 3, 0, np.nan], [0, 0, 3, np.nan]],
    )
    # By score the first caption has image 2 before 1: nothing of grade 3 at rank 1, both of grades 2 and 1 at ranks 1 and 2.
    # The second has image 3 first: nothing at 1, one of two at 2. The third has its own first. That of image 4 is not asked.
    scores = np.array([[0.8, 0.9, 0.1, 1.0], [0.2, 0.3, 0.9, 0.0], [0.0, 0.0, 0.5, 0.9], [0.0, 0.0, 0.0, 0.0]])
    judge = Judge("labels", match, {"PMRP": GradedRPrecision(3)})
    whole = Fold(slice(0, 4), slice(0, 4))
    found = judged_values([judge], "text_to_image", whole, [Orders.by(scores, slice(0, 4))])
    expected = [100 * (0 + 1 + 1) / 3, 100 * (0 + 0.5 + 0.5) / 3, 100, np.nan]
    assert found["PMRP"] == pytest.approx(expected, abs=1e-4, nan_ok=True)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"annotations": [{"image_id": 1, "category_id": 91}]}, r"annotations\[0\]: an image_id and a category_id of 1 to 90"),
        ({"annotations": [{"image_id": 1}]}, "number 1 of its annotations has no category_id, expected a number or text"),
        ({"annotations": [{"image_id": 5, "category_id": 1}]}, "labels none of the data's images"),
        ({"images": []}, "it has no annotations, expected a list"),
    ],
)
def test_labels_that_cannot_be_used_are_one_sentence(tmp_path: Path, content: object, sentence: str) -> None:
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=sentence):
        plausible_match(dataset({"1.jpg": ["one"]}), path)


# SPICE: the program needs models that cannot be shipped, so that a stand-in answers for it


STAND_IN = """#!{python}
import json, sys
arguments = sys.argv[1:]
if "-cp" in arguments:
    for line in open(arguments[-1], encoding="utf-8"):
        print(line.strip().lower().replace(".", " . ").replace("  ", " ").strip())
elif "-out" in arguments:
    pairs = json.load(open(arguments[arguments.index("spice-1.0.jar") + 1]))
    def f(pair):
        common = set(pair["test"].split()) & set(" ".join(pair["refs"]).split())
        return None if pair["test"] == "x" else len(common) / len(pair["test"].split())
    answers = [{{"image_id": p["image_id"], "scores": {{"All": {{"f": f(p)}}}}}} for p in reversed(pairs)]
    json.dump(answers, open(arguments[arguments.index("-out") + 1], "w"))
"""


@pytest.fixture
def program(tmp_path: Path) -> SpiceProgram:
    for name in ("spice", "tokenizer"):
        (tmp_path / "package" / name).mkdir(parents=True)
    java = tmp_path / "java"
    java.write_text(STAND_IN.format(python=sys.executable))
    java.chmod(java.stat().st_mode | stat.S_IXUSR)
    return SpiceProgram(str(java), tmp_path / "package")


def test_spice_asks_the_program_for_every_caption_and_image(program: SpiceProgram, tmp_path: Path) -> None:
    captions = ["A dog runs.", "the DOG", "x", "a cat ."]
    spice = Spice(program, captions, np.array([0, 0, 1, 1]), tmp_path / "graphs")
    found = spice.rows(slice(0, 4))
    assert found == pytest.approx(np.array([[1, 1 / 3], [1, 0], [0, 0], [1 / 2, 1]]))
    assert spice.rows(slice(1, 2)) == pytest.approx(found[1:2])


def test_a_program_that_fails_says_why_in_one_sentence(program: SpiceProgram, tmp_path: Path) -> None:
    Path(program.java).write_text("#!/bin/sh\necho 'Exception in thread main: no models' >&2\nexit 1\n")
    with pytest.raises(ConfigError, match="the SPICE program failed and said 'Exception in thread main: no models'"):
        Spice(program, ["a dog"], np.array([0]), tmp_path / "graphs")


def test_spice_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="SPICE needs Java"):
        SpiceProgram.find()
    (tmp_path / "java").write_text("#!/bin/sh\n")
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "packages")])
    with pytest.raises(ConfigError, match=r"needs the package pycocoevalcap.*aladin\[spice\].*--measure ndcg-spice=FILE"):
        SpiceProgram.find()
    library = tmp_path / "packages" / "pycocoevalcap" / "spice" / "lib"
    library.mkdir(parents=True)
    importlib.invalidate_caches()
    with pytest.raises(ConfigError, match=r"needs stanford-corenlp-3.6.0.jar, which is not in"):
        SpiceProgram.find()
    for name in ("", "-models"):
        (library / f"stanford-corenlp-3.6.0{name}.jar").touch()
    assert SpiceProgram.find() == SpiceProgram(str(tmp_path / "java"), library.parent.parent)


# By name


@pytest.fixture
def judging(tmp_path: Path) -> Judging:
    data = dataset(COCO)
    ids = coco_json(tmp_path / "captions.json", karpathy=False)
    return Judging(data, PROTOCOLS["full"], ids, tmp_path / "cache", 2**20, lambda name: nullcontext(lambda *_: None), print)


def test_rouge_relevances_are_computed_once_and_kept(judging: Judging, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = named_judge("ndcg-rouge", judging)
    assert list(judge.measures) == ["NDCG@25 (ROUGE-L)"]
    rows = judge.relevances.rows("text_to_image", np.arange(5), slice(0, 2))
    assert rows[:2, 0].tolist() == rows[2:, 1].tolist()[:2] == [1.0, 1.0]
    monkeypatch.setattr(RougeL, "rows", lambda self, asked: pytest.fail("computed again"))
    assert named_judge("ndcg-rouge", judging).origin == judge.origin


def test_a_matrix_in_a_file_is_known_by_its_content(judging: Judging, tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", np.eye(5, 2, dtype=np.float32))
    judge = named_judge(f"ndcg-spice={tmp_path / 'm.npy'}", judging)
    assert list(judge.measures) == ["NDCG@25 (SPICE)"]
    assert judge.origin.startswith("file of SHA-256 ")
    assert judge.relevances.rows("image_to_text", np.arange(2), slice(0, 2)).tolist() == [[1, 0], [0, 1]]


def test_plausible_match_is_told_from_its_file(judging: Judging, tmp_path: Path) -> None:
    (tmp_path / "instances.json").write_text(json.dumps({"annotations": [{"image_id": 7, "category_id": 1}]}))
    assert list(named_judge(f"pmrp={tmp_path / 'instances.json'}", judging).measures) == ["PMRP"]
    folder = write_sets(tmp_path / "pm", {"12": [100, 999]}, {"103": [7, 12]})
    assert list(named_judge(f"pmrp={folder}", judging).measures) == ["Plausible Match R-Precision"]


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        ("ndcg", {}, "there is no measure 'ndcg'; choose ndcg-rouge, ndcg-spice, eccv, cxc, pmrp"),
        ("pmrp", {}, "PMRP needs COCO's instances_val2014.json"),
        ("eccv=file", {}, "the measure eccv takes no file"),
        ("cxc", {"ids": None}, "the measure cxc needs COCO's caption ids; pass --coco-ids captions_val2014.json"),
        ("eccv", {"protocol": PROTOCOLS["coco-1k-5fold"]}, "defined over all of COCO's 5,000 test images"),
        ("eccv", {}, "eccv_image_to_caption.json judges 1,261 images of which 1,261 are not in the data"),
    ],
)
def test_a_measure_that_cannot_be_had_is_one_sentence(
    judging: Judging, name: str, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises((ConfigError, DataError), match=sentence):
        named_judge(name, dataclasses.replace(judging, **changes))
