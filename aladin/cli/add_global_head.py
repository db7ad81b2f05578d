"""`aladin add-global-head`: Let a trained model compare pictures and sentences as a whole too."""

from pathlib import Path

import click

from aladin.cli.captioned import CACHE, SKIP_BAD, TRAINED_WITH_DATA, cache_folder, read_captioned
from aladin.cli.memory import keep_freed_memory
from aladin.cli.progress import progress_shown
from aladin.cli.terminal import print_line
from aladin.cli.values import FiniteRange, with_options
from aladin.encoder.config import HeadsConfig
from aladin.errors import DataError


@click.command("add-global-head")
@with_options(TRAINED_WITH_DATA)
@click.option("--dim", type=click.IntRange(1, 384), default=128, show_default=True, help="Numbers added to vectors and tokens.")
@click.option(
    "--share",
    type=FiniteRange(0, 1, min_open=True, max_open=True),
    default=HeadsConfig.global_share,
    show_default=True,
    help="Of the global head in every score.",
)
@click.option("--epochs", type=click.IntRange(min=1), default=160, show_default=True, help="Of its learning.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of its learning.")
@CACHE
@SKIP_BAD
def add_global_head(
    model: Path,
    out: Path,
    data: Path,
    split: str | None,
    images: Path | None,
    dim: int,
    share: float,
    epochs: int,
    seed: int,
    cache: Path | None,
    skip_bad: bool,
) -> None:
    """Write to OUT the trained MODEL with a global head, for `aladin correct-hubs`, `aladin evaluate` and `aladin export`.

    The global head compares pictures and sentences as a whole, by perceptrons that learn in minutes, and its score is added to
    those of MODEL, which learns nothing here. MODEL may be an exported folder, as good as its stored weights are. A global head
    and a correction of hubs that it has already are left out: make the correction anew. To train on, start from MODEL.

    \b
    aladin add-global-head runs/lite/best runs/whole --data train.zip
    """
    from aladin.datasets import DataOrigin
    from aladin.encoder.word_pieces import WordPieces
    from aladin.exporting.restoring import model_that_learns
    from aladin.network.checkpoints import check_not_exported, named_model, provenance_as_trained, save_model
    from aladin.network.minilm import minilm, minilm_folder
    from aladin.network.variants import as_trained, check_addable
    from aladin.training.caption_teacher import CaptionTeacher
    from aladin.training.global_learning import Lesson, pooled_pictures, pooled_sentences, with_learned_global_head
    from aladin.training.trainer import check_captions, learning_set

    keep_freed_memory()
    check_not_exported(out)
    begin = as_trained(model_that_learns(model))
    check_addable(begin.config)
    dataset = read_captioned(data, split, images, skip_bad)
    check_captions(dataset, str(data))
    if len(dataset) + dataset.caption_count < dim:
        raise DataError(
            f"{data} has {len(dataset)} images and {dataset.caption_count} captions, too few for a global head of {dim} "
            "numbers; give more data, or a lower --dim"
        )
    tokenizer = model / "tokenizer.json"

    with cache_folder(cache) as folder:
        with progress_shown("image features", quiet=False) as tell:
            read = learning_set(dataset, begin, tokenizer, 1, folder, tell)
        with progress_shown("images", quiet=False) as tell:
            pictures = pooled_pictures(begin, read.images, tell)
    with progress_shown("captions", quiet=False) as tell:
        sentences = pooled_sentences(begin, read.pieces, tell)
    words = WordPieces.load(minilm_folder() / "tokenizer.json", begin.config.limits.caption_pieces)
    likeness = CaptionTeacher.build(minilm(), words.encode(list(dataset.captions)), read.owners)
    lesson = Lesson(pictures, sentences, read.owners, likeness.scores)
    with progress_shown("steps of learning", quiet=False) as tell:
        whole = with_learned_global_head(begin, lesson, dim, share, epochs, seed, tell)
    used = DataOrigin.of(dataset)
    record = {"model": named_model(model), "data": used.table(), "epochs": epochs, "seed": seed}
    save_model(whole, tokenizer, out, provenance_as_trained(model) | {"global_head": record})
    print_line(f"{out}: a global head of {dim} numbers, from {used.images:,} images and {used.captions:,} captions")
