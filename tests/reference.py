"""Slow, obvious versions of fast code: one loop per index, checkable by eye. Plain lists and numpy, no torch."""

import math
from collections.abc import Sequence

import numpy as np

Rows = list[np.ndarray]  # one array (tokens, dim) for each image or caption, without padding


def alignment(regions: np.ndarray, words: np.ndarray, pooling: str) -> float:
    """The score of one image (its regions) and one caption (its words); spec section 2."""
    cosine = [[float(np.dot(region, word)) for word in words] for region in regions]
    best_region = [max(row[w] for row in cosine) for w in range(len(words))]
    best_word = [max(row) for row in cosine] if len(words) else [0.0] * len(regions)
    everything = [value for row in cosine for value in row]
    match pooling:
        case "MrSw":
            return sum(best_region)
        case "MrAVGw":
            return sum(best_region) / max(1, len(words))
        case "MwSr":
            return sum(best_word)
        case "symm":
            return sum(best_region) + sum(best_word)
        case "sum":
            return sum(everything)
        case "mean":
            return sum(everything) / max(1, len(everything))
        case "scan-sentences":
            return scan_sentences(cosine, regions, words)
    raise AssertionError(pooling)


def mutual_alignment(one: np.ndarray, other: np.ndarray) -> float:
    """How alike two images are by their regions: each side chooses, and the two means are halved."""
    return (alignment(one, other, "MrAVGw") + alignment(other, one, "MrAVGw")) / 2


def scan_sentences(cosine: list[list[float]], regions: np.ndarray, words: np.ndarray) -> float:
    if not len(words):
        return 0.0
    relevant = np.maximum(np.array(cosine), 0.0)
    total = 0.0
    lengths = [max(1e-12, float(np.sqrt(sum(relevant[r, w] ** 2 for r in range(len(regions)))))) for w in range(len(words))]
    for r, region in enumerate(regions):
        weights = [np.exp(relevant[r, w] / lengths[w]) for w in range(len(words))]
        attended = sum(weight * word for weight, word in zip(weights, words, strict=True)) / sum(weights)
        total += float(np.dot(region, attended) / (np.linalg.norm(region) * np.linalg.norm(attended)))
    return total


def alignment_matrix(images: Rows, captions: Rows, pooling: str) -> np.ndarray:
    return np.array([[alignment(regions, words, pooling) for words in captions] for regions in images])


def hinge(scores: np.ndarray, owners: list[int], margin: float, hardest: bool) -> float:
    """Each own pair against the other images and against the captions of the other images."""
    images, captions = scores.shape
    total = 0.0
    for caption, image in enumerate(owners):
        positive = scores[image, caption]
        by_image = [max(0.0, margin + scores[i, caption] - positive) for i in range(images) if i != image]
        by_caption = [max(0.0, margin + scores[image, c] - positive) for c in range(captions) if owners[c] != image]
        for violations in (by_image, by_caption):
            total += (max(violations) if hardest else sum(violations)) if violations else 0.0
    return total


def infonce(scores: np.ndarray, owners: list[int], scale: float) -> float:
    images, captions = scores.shape
    to_image, to_text = [], []
    for caption, image in enumerate(owners):
        logits = [np.exp(scale * scores[i, caption]) for i in range(images)]
        to_image.append(-np.log(logits[image] / sum(logits)))
        own = np.exp(scale * scores[image, caption])
        others = sum(np.exp(scale * scores[image, c]) for c in range(captions) if owners[c] != image)
        to_text.append(-np.log(own / (own + others)))
    return float((np.mean(to_image) + np.mean(to_text)) / 2)


def listnet(student: np.ndarray, teacher: np.ndarray, student_scale: float, teacher_scale: float) -> float:
    def softmax(values: np.ndarray) -> np.ndarray:
        powers = np.exp(values)
        return powers / powers.sum()

    def one_direction(rows: np.ndarray, targets: np.ndarray) -> float:
        entropies = [
            -np.sum(softmax(teacher_scale * target) * np.log(softmax(student_scale * row)))
            for row, target in zip(rows, targets, strict=True)
        ]
        return float(np.mean(entropies))

    return one_direction(student, teacher) + one_direction(student.T, teacher.T)


def ordinal(student: np.ndarray, teacher: np.ndarray, margin: float, threshold: float, stride: int) -> float:
    def one_direction(rows: np.ndarray, targets: np.ndarray) -> float:
        violations = []
        for row, target in zip(rows, targets, strict=True):
            order = sorted(range(len(row)), key=lambda k: target[k])
            for low, high in zip(order, order[stride:], strict=False):
                if target[high] >= threshold:
                    violations.append(max(0.0, margin + row[low] - row[high]))
        return float(np.mean(violations)) if violations else 0.0

    return one_direction(student, teacher) + one_direction(student.T, teacher.T)


def contrastive(student: np.ndarray, teacher: np.ndarray, owners: list[int], margin: float) -> float:
    images, captions = student.shape
    total = 0.0
    for caption, image in enumerate(owners):
        positive = student[image, caption]
        wrong_images = [i for i in range(images) if i != image]
        wrong_captions = [c for c in range(captions) if owners[c] != image]
        if wrong_images:
            hard = max(wrong_images, key=lambda i: teacher[i, caption])
            total += max(0.0, margin + student[hard, caption] - positive)
        if wrong_captions:
            hard = max(wrong_captions, key=lambda c: teacher[image, c])
            total += max(0.0, margin + student[image, hard] - positive)
    return total


def rank_of_best(scores: list[float], right: set[int]) -> int:
    """From 1; every wrong candidate at least as good as the best right one stands before it."""
    best = max(scores[k] for k in right)
    return 1 + sum(1 for k, score in enumerate(scores) if k not in right and score >= best)


def relevance_by_score(scores: Sequence[float], relevance: Sequence[float]) -> list[float]:
    """The relevance of all judged candidates, best score first, equal scores least relevant first; 0 if one is broken."""
    judged = [(float(s), float(r)) for s, r in zip(scores, relevance, strict=True) if not math.isnan(r)]
    if any(math.isnan(score) for score, _ in judged):
        return [0.0] * len(judged)
    return [r for _, r in sorted(judged, key=lambda candidate: (-candidate[0], candidate[1]))]


def rouge_l(caption: str, references: Sequence[str]) -> float:
    """ROUGE-L with beta 1.2; precision and recall are each the best over the references. Words are parted by single spaces."""
    words = caption.lower().split(" ")
    common = [(longest_common_subsequence(words, some.lower().split(" ")), len(some.split(" "))) for some in references]
    precision = max(length / len(words) for length, _ in common)
    recall = max(length / size for length, size in common)
    return (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision) if precision else 0.0


def longest_common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    lengths = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            lengths[i + 1][j + 1] = lengths[i][j] + 1 if a == b else max(lengths[i][j + 1], lengths[i + 1][j])
    return lengths[-1][-1]
