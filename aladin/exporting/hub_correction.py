"""A trained model with dual bank normalisation inside its vectors and tokens (aladin/network/hubs.py), from training data."""

from dataclasses import dataclass, replace
from pathlib import Path

from aladin.config import check_whole_number
from aladin.datasets import Data, DataOrigin, Dataset, dataset_of
from aladin.encoder.config import HeadsConfig, ModelConfig
from aladin.encoder.folder import model_config
from aladin.errors import ConfigError
from aladin.evaluation.encoding import encode_dataset
from aladin.files import kept_or_temporary, path_of
from aladin.network.checkpoints import check_not_exported, check_out, load_model, named_model, provenance, save_model
from aladin.network.run import Run, chosen_device
from aladin.network.variants import check_addable, with_hub_correction
from aladin.processes import keep_freed_memory
from aladin.progress import SILENT, Steps

CENTRES = 500
MAX_IMAGES = 10_000  # more make no better centres, and are held in memory


@dataclass(frozen=True)
class Correction:
    """What hubs were measured on."""

    centres: int  # in the bank of each side
    images: int
    captions: int


def correct_hubs(
    model: str | Path,
    out: str | Path,
    data: Data,
    *,
    centres: int = CENTRES,
    scale: float = HeadsConfig.hub_scale,
    weight: float = HeadsConfig.hub_weight,
    cache: str | Path | None = None,
    device: str = "auto",
    progress: Steps = SILENT,
) -> Correction:
    """Write to the folder `out` the trained model of a folder with its hubs corrected, by training data.

    Nothing is trained; to train on, start from `model`. `scale` is the inverse temperature of nearness, `weight` what it
    counts in scores; image features are kept in `cache`; the model encodes on `device`. ConfigError where the model cannot
    have a correction, `out` is `model`, or there are fewer images or captions than centres: said before anything is encoded.
    """
    keep_freed_memory()
    model, out = path_of("model", model), path_of("out", out)
    check_whole_number("centres", centres, 1)
    run = Run(device=chosen_device(device))
    config = check_model(model, out)
    heads = replace(config.heads, hub_centres=centres, hub_scale=scale, hub_weight=weight)
    used = _sample(dataset_of(data))
    with kept_or_temporary(cache) as folder:
        _check_centres(used, centres)
        encoded = encode_dataset(model, used, run, folder, progress)
    corrected = with_hub_correction(load_model(model), heads, encoded.images.vectors, encoded.captions.vectors)
    origin = DataOrigin.of(used)
    details = provenance(model) | {"hub_correction": {"model": named_model(model), "data": origin.table()}}
    save_model(corrected, model / "tokenizer.json", out, details)
    return Correction(centres, origin.images, origin.captions)


def check_model(model: Path, out: Path) -> ModelConfig:
    """The settings of the model of a folder, if its hubs can be corrected and the result written to `out`; an error if not."""
    check_out(model, out)
    check_not_exported(out)
    config = model_config(model)
    check_addable(config)
    return config


def _check_centres(data: Dataset, centres: int) -> None:
    images, captions = len(data), data.caption_count
    if centres > min(images, captions):
        raise ConfigError(
            f"centres is {centres:,}, but the data have {images:,} images and {captions:,} captions (at most {MAX_IMAGES:,} "
            f"images count); expected at least as many: give more data, or {min(images, captions)} by --centres"
        )


def _sample(data: Dataset) -> Dataset:
    """At most MAX_IMAGES of a data set, evenly spread over it."""
    step = -(-len(data) // MAX_IMAGES)
    return replace(data, examples=data.examples[::step])
