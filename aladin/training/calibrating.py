"""Learning the constants of `aladin.search.probability` on images with captions.

Two kinds of queries are asked of all images, as people ask both: the captions themselves, and single words that they use. The
ten best hits of each count, since those are what people see. A hit is right

- for a caption: when it is the caption's own image, or when that image's captions are on average as near to it in meaning as
  the captions of one image are to each other (the median; by MiniLM as it was before training, a cosine). Without this a
  dog that runs through grass would be wrong for the caption of another one;
- for a word: when one of the image's captions has it.

The logistic curve is fitted by maximum likelihood, both kinds counting alike, on one half of the queries to be judged on the
other, and on all of them to be kept.
"""

import re
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tomli_w
import torch
from jaxtyping import Bool, Float32, Float64, Int64

from aladin.datasets import Dataset
from aladin.encoder.config import BackboneConfig
from aladin.encoder.encoder import Encoder
from aladin.encoder.word_pieces import WordPieces
from aladin.errors import DataError
from aladin.evaluation.encoding import EncodedData
from aladin.evaluation.scoring import alignment_matrix
from aladin.files import write_whole
from aladin.network.minilm import minilm, minilm_folder
from aladin.network.run import ALONE, Run
from aladin.network.tensors import Tokens
from aladin.progress import Steps
from aladin.search.probability import BACKGROUND, Background, Calibration, terms
from aladin.training.caption_similarity import CaptionSimilarity

HITS = 10  # of each query
MIN_IMAGES, MAX_SHARE = 10, 0.2  # a word is asked when so many images, and at most this share of them, show it
MIN_LETTERS = 3
# Words that describe nothing by themselves.
EMPTY_WORDS = frozenset(
    ("about", "above", "across", "after", "all", "along", "and", "another", "are", "around", "away", "back", "behind", "being",
     "beside", "between", "but", "down", "each", "for", "from", "front", "has", "have", "her", "his", "how", "into", "its",
     "near", "next", "off", "one", "onto", "other", "out", "over", "past", "some", "something", "that", "the", "their",
     "them", "there", "they", "this", "through", "two", "under", "very", "while", "who", "with")
)  # fmt: skip
LIKELIHOOD_STEPS = 50
RIDGE = 1e-6


@dataclass(frozen=True)
class Asked:
    """Queries of one kind: the score of every image for each, and whether that image would be right."""

    scores: Float32[np.ndarray, "images queries"]
    right: Bool[np.ndarray, "images queries"]
    pieces: Int64[np.ndarray, " queries"]


@dataclass(frozen=True)
class JudgedHits:
    """The best hits of queries of one kind, each query's together."""

    standard: Float64[np.ndarray, " hits"]  # scores in units of the background
    pieces: Int64[np.ndarray, " hits"]  # of the query
    right: Bool[np.ndarray, " hits"]


@dataclass(frozen=True)
class Judged:
    """What the constants are learned from."""

    captions: Asked
    words: Asked
    background: Background


def judged_queries(
    encoder: Encoder, encoded: EncodedData, data: Dataset, steps: Steps, minilm: Path | None = None, run: Run = ALONE
) -> Judged:
    """All captions of the data and its common words, asked of all its images by an exported model that encoded them.

    `minilm` is a folder with MiniLM-L6, instead of its package.
    """
    regions = encoded.images.tokens
    with steps.step("scores"):
        tokens = encoded.asked("text_to_image").captions.tokens
        captions = _scores(regions, tokens, run)
        mentions = word_mentions(data)
        if not mentions:
            raise DataError(
                f"no word stands with at least {MIN_IMAGES} and at most {MAX_SHARE:.0%} of the {len(data)} images; give more "
                "images with captions"
            )
        words = _tokens(encoder, list(mentions))
        background = _scores(regions, _tokens(encoder, list(BACKGROUND)), run)
    with steps.step("meanings of the captions"):
        right = _same_meaning(data, minilm, run)
    pieces = [tokens.mask.sum(dim=1).numpy() for tokens in (encoded.captions.tokens, words)]
    return Judged(
        Asked(captions, right, pieces[0]),
        Asked(_scores(regions, words, run), np.stack(list(mentions.values()), axis=1), pieces[1]),
        Background(float(background.mean()), float(background.std())),
    )


def word_mentions(data: Dataset) -> dict[str, Bool[np.ndarray, " images"]]:
    """For each common word of the captions, the images of which it is said, in the singular or with an s."""
    of_word: dict[str, set[int]] = defaultdict(set)
    for caption, owner in zip(data.captions, data.owners.tolist(), strict=True):
        for word in re.findall("[a-z]+", caption.lower()):
            of_word[word].add(owner)
    found = {}
    for word, images in sorted(of_word.items()):
        if len(word) < MIN_LETTERS or word in EMPTY_WORDS or (word.endswith("s") and word[:-1] in of_word):
            continue
        shown = np.zeros(len(data), dtype=bool)
        shown[list(images | of_word.get(f"{word}s", set()))] = True
        if MIN_IMAGES <= shown.sum() <= MAX_SHARE * len(data):
            found[word] = shown
    return found


def best_hits(asked: Asked, background: Background, queries: Int64[np.ndarray, " queries"]) -> JudgedHits:
    """The ten best images for each of these queries, best first."""
    scores = asked.scores[:, queries].astype(np.float64)
    best = np.argsort(-scores, axis=0, kind="stable")[:HITS]
    standard = (np.take_along_axis(scores, best, axis=0) - background.mean) / background.deviation
    right = np.take_along_axis(asked.right[:, queries], best, axis=0)
    pieces = np.broadcast_to(asked.pieces[queries], best.shape)
    return JudgedHits(standard.T.ravel(), pieces.T.ravel().astype(np.int64), right.T.ravel())


def learned(judged: Judged, half: int | None, data: str) -> Calibration:
    """The constants from all queries, or from every other one: `half` 0 the first, third and so on, 1 the others."""
    kinds = [best_hits(asked, judged.background, _half(asked, half)) for asked in (judged.captions, judged.words)]
    rows = np.concatenate([terms(hits.standard, hits.pieces) for hits in kinds])
    right = np.concatenate([hits.right for hits in kinds])
    weights = np.concatenate([np.full(len(hits.right), 1 / len(hits.right)) for hits in kinds])
    intercept, slope, length_intercept, length_slope = (round(float(c), 5) for c in most_likely(rows, right, weights))
    mean, deviation = round(judged.background.mean, 5), round(judged.background.deviation, 5)
    return Calibration(intercept, slope, length_intercept, length_slope, mean, deviation, data)


def judged_probabilities(
    calibration: Calibration, judged: Judged, half: int
) -> dict[str, tuple[Float64[np.ndarray, " hits"], Bool[np.ndarray, " hits"]]]:
    """For each kind of query, the probability of each best hit and whether it was right."""
    found = {}
    for kind, asked in (("captions", judged.captions), ("words", judged.words)):
        hits = best_hits(asked, judged.background, _half(asked, half))
        logits = terms(hits.standard, hits.pieces) @ calibration.constants
        found[kind] = (1 / (1 + np.exp(-logits)), hits.right)
    return found


def answered_shares(calibration: Calibration, judged: Judged, half: int, least: float) -> dict[str, tuple[float, float]]:
    """For each kind of query, the share whose best hit has at least this probability: as they are, and with every right image
    taken away, when there is nothing to be found.
    """
    found = {}
    for kind, asked in (("captions", judged.captions), ("words", judged.words)):
        queries = _half(asked, half)
        shares = []
        for scores in (asked.scores, np.where(asked.right, np.float32(-np.inf), asked.scores)):
            standard = (
                scores[:, queries].max(axis=0).astype(np.float64) - judged.background.mean
            ) / judged.background.deviation
            logits = terms(standard, asked.pieces[queries]) @ calibration.constants
            shares.append(float(np.mean(1 / (1 + np.exp(-logits)) >= least)))
        found[kind] = (shares[0], shares[1])
    return found


def most_likely(
    rows: Float64[np.ndarray, "hits terms"], right: Bool[np.ndarray, " hits"], weights: Float64[np.ndarray, " hits"]
) -> Float64[np.ndarray, " terms"]:
    """The constants of a logistic curve that make what was right most likely, by Newton's method."""
    constants = np.zeros(rows.shape[1])
    for _ in range(LIKELIHOOD_STEPS):
        expected = 1 / (1 + np.exp(-(rows @ constants)))
        slope = rows.T @ (weights * (right - expected)) - RIDGE * constants
        curvature = (rows * (weights * expected * (1 - expected))[:, None]).T @ rows + RIDGE * np.eye(rows.shape[1])
        step = np.linalg.solve(curvature, slope)
        constants = constants + step
        if np.abs(step).max() < 1e-9:
            break
    return constants


def write_calibration(model: Path, calibration: Calibration) -> None:
    """Put the table into the folder's model.toml, in the place of an older one; the rest of the file stays as it is."""
    path = model / "model.toml"
    text = re.sub(r"(?ms)^\[calibration\]\n.*?(?=^\[|\Z)", "", path.read_text(encoding="utf-8"))
    write_whole(path, f"{text.rstrip()}\n\n[calibration]\n{tomli_w.dumps(asdict(calibration))}")


def _half(asked: Asked, half: int | None) -> Int64[np.ndarray, " queries"]:
    queries = np.arange(asked.scores.shape[1])
    return queries if half is None else queries[half::2]


def _scores(regions: Tokens, words: Tokens, run: Run) -> Float32[np.ndarray, "images queries"]:
    """The mean over words of the best region, whichever of the two poolings the model has."""
    scores: Float32[np.ndarray, "images queries"] = alignment_matrix(regions, words, "MrAVGw", device=run.device).numpy()
    return scores


def _tokens(encoder: Encoder, texts: list[str]) -> Tokens:
    encoded = encoder.encode_queries(texts)
    return Tokens(torch.from_numpy(encoded.words), torch.from_numpy(encoded.word_mask))


def _same_meaning(data: Dataset, folder: Path | None, run: Run) -> Bool[np.ndarray, "images captions"]:
    """Whether what is said of each image means about the same as each caption, by the MiniLM of `folder` or of its package."""
    pieces = WordPieces.load((folder or minilm_folder()) / "tokenizer.json", BackboneConfig().positions)
    similarity = CaptionSimilarity.build(minilm(folder), pieces.encode(list(data.captions)), data.owners, run)
    vectors, owners = similarity.caption_vectors.numpy(), data.owners
    counts = np.bincount(owners, minlength=len(data))
    sums = np.zeros((len(data), vectors.shape[1]), dtype=np.float32)
    np.add.at(sums, owners, vectors)
    means = sums @ vectors.T / counts[:, None]  # of the cosines of each image's captions with each caption
    columns = np.arange(len(owners))
    others = (means[owners, columns] * counts[owners] - 1) / np.maximum(counts[owners] - 1, 1)  # without the caption itself
    right: Bool[np.ndarray, "images captions"] = means >= _usual(others[counts[owners] > 1])
    right[owners, columns] = True
    return right


def _usual(similarity: Float64[np.ndarray, " captions"]) -> float:
    """The median similarity of a caption to the others of its image; without others, none but its own is right."""
    return float(np.median(similarity)) if len(similarity) else np.inf
