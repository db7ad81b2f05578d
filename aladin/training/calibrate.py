"""What a model's scores mean as probabilities, into its folder: what `aladin calibrate` does.

>>> import aladin
>>> found = aladin.calibrate(model, data, write=False)
>>> sorted(found.reliability)
['captions', 'words']
>>> 0 <= found.reliability["captions"].error <= 1
True
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aladin.datasets import Data, dataset_of
from aladin.encoder.encoder import Encoder
from aladin.encoder.pooling import searchable
from aladin.evaluation.encoding import encode_by
from aladin.files import path_of
from aladin.measures.reliability import Reliability, reliability
from aladin.network.run import Run, chosen_device
from aladin.progress import SILENT, Steps
from aladin.search.probability import Calibration
from aladin.search.search import LIKELY
from aladin.training.calibrating import answered_shares, judged_probabilities, judged_queries, learned, write_calibration
from aladin.training.region_share import HALF, at_share, best_share, rsum_by_share, with_share, write_share


@dataclass(frozen=True)
class Calibrated:
    """The constants that all queries taught, and how those of one half fare on the other; "captions" and "words" apart."""

    calibration: Calibration
    reliability: Mapping[str, Reliability]
    # The share of queries whose best hit is likely: as they are, and when nothing right is left.
    answered: Mapping[str, tuple[float, float]]
    shares: Mapping[float, float] = field(default_factory=dict)  # of an added encoder: the rsum at each share of its regions
    share: float | None = None  # the best of these


def calibrate(
    model: str | Path,
    data: Data,
    *,
    write: bool = True,
    minilm: str | Path | None = None,
    device: str = "auto",
    progress: Steps = SILENT,
) -> Calibrated:
    """How likely hits of an exported model are right, learned on images with captions; written to its model.toml if `write`.

    `minilm` is a folder with MiniLM-L6 instead of its package. The model encodes on the processor, as search does; its
    scores and the meanings of captions are computed on `device`. DataError for data of which no word is common. For an added
    encoder the share of its regions is chosen first, by the rsum of alignment on the same data.
    """
    model, run = path_of("model", model), Run(device=chosen_device(device))
    dataset = dataset_of(data)
    encoder = Encoder.load(model)
    searchable(encoder.model.config.heads.pooling)
    shares, share = dict[float, float](), None
    if encoder.model.config.encoder.family:
        token_dim = encoder.model.config.heads.token_dim
        both = encode_by(with_share(encoder, HALF), dataset, run, progress)
        shares = rsum_by_share(both, token_dim, run)
        share = best_share(shares)
        encoder, encoded = with_share(encoder, share), at_share(both, token_dim, share)
    else:
        encoded = encode_by(encoder, dataset, run, progress)
    judged = judged_queries(encoder, encoded, dataset, progress, None if minilm is None else Path(minilm), run)
    trial = learned(judged, 0, dataset.name)
    found = {kind: reliability(*hits) for kind, hits in judged_probabilities(trial, judged, 1).items()}
    answered = answered_shares(trial, judged, 1, LIKELY)
    name = f"{dataset.name}, split {dataset.split}" if dataset.split else dataset.name
    calibration = learned(judged, None, name)
    if write:
        if share is not None:
            write_share(model, share)
        write_calibration(model, calibration)
    return Calibrated(calibration, found, answered, shares, share)
