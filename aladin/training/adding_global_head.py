"""A trained model with a further head, for whole pictures and sentences: what `aladin add-global-head` does.

>>> import aladin
>>> added = aladin.add_global_head(model, scratch / "global", pictures, dim=4, epochs=1)
>>> added.dim, added.images, added.captions
(4, 8, 16)
"""

from dataclasses import dataclass
from pathlib import Path

from aladin.config import check_whole_number, is_finite
from aladin.datasets import Data, DataOrigin, Dataset, dataset_of
from aladin.encoder.config import HeadsConfig
from aladin.encoder.folder import model_config
from aladin.encoder.word_pieces import WordPieces
from aladin.errors import ConfigError, DataError
from aladin.exporting.restoring import model_that_learns
from aladin.files import kept_or_temporary, path_of
from aladin.network.checkpoints import check_not_exported, check_out, named_model, provenance_as_trained, save_model
from aladin.network.minilm import minilm as minilm_of
from aladin.network.minilm import minilm_folder
from aladin.network.model import Aladin
from aladin.network.run import CPU, Run, chosen_device
from aladin.network.variants import as_trained, check_addable, config_as_trained
from aladin.processes import keep_freed_memory
from aladin.progress import SILENT, Steps
from aladin.training.caption_similarity import CaptionSimilarity
from aladin.training.global_learning import MAX_DIM, Lesson, pooled_pictures, pooled_sentences, with_learned_global_head
from aladin.training.learning_set import check_captions, learning_set


@dataclass(frozen=True)
class AddedGlobalHead:
    """What was written."""

    folder: Path
    dim: int  # numbers added to vectors and tokens
    images: int  # that it learned from
    captions: int


def add_global_head(
    model: str | Path,
    out: str | Path,
    data: Data,
    *,
    dim: int = 128,
    share: float = HeadsConfig.global_share,
    epochs: int = 160,
    seed: int = 0,
    cache: str | Path | None = None,
    minilm: str | Path | None = None,
    device: str = "auto",
    progress: Steps = SILENT,
) -> AddedGlobalHead:
    """Write to `out` the trained or exported model of a folder with a global head that has learned from `data`.

    `share` is that of the head in every score. Image features are kept in `cache`, if there is one. `minilm` is a folder with
    MiniLM-L6 instead of its package; `device` computes. ConfigError for a setting out of range, a model that cannot have such
    a head, and where `out` is `model`; DataError for too little data, ModelError if `out` holds an exported model.
    """
    keep_freed_memory()
    model, out = path_of("model", model), path_of("out", out)
    _check_settings(dim, share, epochs, seed)
    check_model(model, out)
    run = Run(device=chosen_device(device))
    with kept_or_temporary(cache) as folder:
        trained = as_trained(model_that_learns(model))
        dataset = dataset_of(data)
        _check_enough(dataset, dim)
        begin = _Begin(trained, model / "tokenizer.json", run, None if minilm is None else Path(minilm))
        lesson = begin.lesson(dataset, folder, progress)
    with progress.step("steps of learning") as watched:
        headed = with_learned_global_head(trained.to(CPU), lesson, dim, share, epochs, seed, watched, run)
    origin = DataOrigin.of(dataset)
    record = {"model": named_model(model), "data": origin.table(), "epochs": epochs, "seed": seed}
    save_model(headed, model / "tokenizer.json", out, provenance_as_trained(model) | {"global_head": record})
    return AddedGlobalHead(out, dim, origin.images, origin.captions)


def check_model(model: Path, out: Path) -> None:
    """An error unless the model of a folder can have a global head, in place of what was added, and `out` can receive it."""
    check_out(model, out)
    check_not_exported(out)
    check_addable(config_as_trained(model_config(model)))


def _check_settings(dim: int, share: float, epochs: int, seed: int) -> None:
    check_whole_number("dim", dim, 1, MAX_DIM)
    check_whole_number("epochs", epochs, 1)
    check_whole_number("seed", seed, 0)
    if not is_finite(share) or not 0 < share < 1:
        raise ConfigError(f"share is {share!r}; expected a number of more than 0 and less than 1")


@dataclass(frozen=True)
class _Begin:
    """What the head is added to, and what it learns with."""

    model: Aladin
    tokenizer: Path
    run: Run
    minilm: Path | None

    def lesson(self, dataset: Dataset, cache: Path, progress: Steps) -> Lesson:
        """What the head learns from."""
        model = self.model.to(self.run.device)
        with progress.step("image features") as watched:
            read = learning_set(dataset, model, self.tokenizer, cache, progress=watched)
        with progress.step("images") as watched:
            pictures = pooled_pictures(model, read.images, watched)
        with progress.step("captions") as watched:
            sentences = pooled_sentences(model, read.pieces, watched)
        words = WordPieces.of((self.minilm or minilm_folder()) / "tokenizer.json", model.config.preprocessing)
        pieces = words.encode(list(dataset.captions))
        similarity = CaptionSimilarity.build(minilm_of(self.minilm), pieces, read.owners, self.run)
        return Lesson(pictures, sentences, read.owners, similarity.scores)


def _check_enough(dataset: Dataset, dim: int) -> None:
    check_captions(dataset, dataset.name)
    if len(dataset) + dataset.caption_count < dim:
        raise DataError(
            f"{dataset.name} has {len(dataset)} images and {dataset.caption_count} captions, too few for a global head of "
            f"{dim} numbers; give more data, or a lower --dim"
        )
