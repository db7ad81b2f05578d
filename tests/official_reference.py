"""The original's alignment score, written from the specification alone (section 2): loops, slots, slices. Plain numpy."""

import numpy as np

SLOTS = 71  # of the tensors in which the original's evaluation keeps the tokens of an image or a caption


def alignment(
    image: np.ndarray, caption: np.ndarray, pooling: str, drops_last_piece: bool = True, pads_with_zero: bool = True
) -> float:
    """The score of one image and one caption, given the backbone's states: regions; [CLS], word pieces, [SEP]."""
    regions, region_count = slots(image)[1:], len(image) - 1
    words, word_count = slots(caption)[1:-1], max(0, len(caption) - 2)
    if drops_last_piece:
        words, word_count = words[:-1], max(0, word_count - 1)
    cells = np.zeros((len(regions), len(words)))
    for r in range(region_count):
        for w in range(word_count):
            cells[r, w] = np.dot(regions[r], words[w])
    if not pads_with_zero:
        cells = cells[:region_count, :word_count]
    match pooling:
        case "MrSw":
            return best_of_columns(cells)
        case "MrAVGw":
            return best_of_columns(cells) / max(1, word_count)
        case "MwSr":
            return best_of_columns(cells.T)
        case "symm":
            return best_of_columns(cells) + best_of_columns(cells.T)
        case "sum":
            return float(cells.sum())
        case "scan-sentences":
            return attended(cells, regions, words, region_count, word_count)
    raise AssertionError(pooling)


def slots(states: np.ndarray) -> np.ndarray:
    filled = np.zeros((SLOTS, states.shape[1]))
    for place, state in enumerate(states):
        filled[place] = state / np.linalg.norm(state)
    return filled


def best_of_columns(cells: np.ndarray) -> float:
    """For each column its greatest cell; these are added."""
    return float(sum(max(column) for column in cells.T if len(column)))


def attended(cells: np.ndarray, regions: np.ndarray, words: np.ndarray, region_count: int, word_count: int) -> float:
    if word_count == 0:
        return 0.0
    relevant = np.maximum(cells, 0.0)
    lengths = [max(1e-12, float(np.linalg.norm(relevant[:, w]))) for w in range(word_count)]
    total = 0.0
    for r in range(region_count):
        weights = [np.exp(relevant[r, w] / lengths[w]) for w in range(word_count)]
        seen = sum(weight * words[w] for w, weight in enumerate(weights)) / sum(weights)
        total += float(np.dot(regions[r], seen) / (np.linalg.norm(regions[r]) * np.linalg.norm(seen)))
    return total
