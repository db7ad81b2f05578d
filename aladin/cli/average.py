"""`aladin average`: Average the weights of models that began alike."""

from pathlib import Path

import click

from aladin.cli.terminal import print_line
from aladin.cli.values import PATH
from aladin.errors import ConfigError


@click.command()
@click.argument("out", type=PATH)
@click.argument("models", nargs=-1, required=True, type=PATH)
def average(out: Path, models: tuple[Path, ...]) -> None:
    """Write to OUT a model whose weights are the mean of those of MODELS.

    The models must have been trained from the same start: the same recipe seed, or the same --start. One may be that start
    itself, also where it was exported.

    \b
    aladin average runs/mean runs/align/best runs/both/best
    """
    from aladin.network.checkpoints import save_model
    from aladin.training.averaging import average_models, averaged_from

    if len(models) < 2:
        raise ConfigError(f"there is one model, {models[0]}, to average; give two or more")
    mean = average_models(models)
    # Read before anything is written, since OUT may be one of them.
    save_model(mean, models[0] / "tokenizer.json", out, {"average": averaged_from(models)})
    print_line(f"{out}: the mean of {len(models)} models")
