"""`aladin model`: Add public encoders and other models by name; list, show and remove them."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from aladin.cli.terminal import print_line, print_lines
from aladin.cli.values import JSON, PATH_AS_TYPED
from aladin.errors import AladinError, ConfigError, ModelError

if TYPE_CHECKING:
    from aladin.encoder.hub import Fetched

NEEDED = ("torch", "transformers", "safetensors", "onnx", "onnxscript", "tomli_w", "sentencepiece")  # to read an encoder
# Other layouts of the same encoders, by a file of each, which are told apart to be refused by name.
REFUSED = {
    "visual/model.onnx": "immich's",
    "visual.onnx": "rclip's",
    "onnx/vision_model.onnx": "onnx-community's",
    "open_clip_config.json": "open_clip's",
}


@click.group
def model() -> None:
    """Models by name: what is added here is a --model NAME everywhere.

    They stand in folders below $ALADIN_MODELS, by default ~/.local/share/aladin/models.
    """


@model.command
@click.argument("source", type=PATH_AS_TYPED)
@click.argument("name", required=False)
@click.option(
    "--precision",
    type=click.Choice(["int8", "fp16", "fp32"]),
    default="int8",
    show_default=True,
    help="Of the weights of a public encoder; each is held to a gate.",
)
@click.option("--accept-licence", is_flag=True, help="Fetch an encoder whose licence is not an open one, or is not stated.")
@JSON
def add(source: str, name: str | None, precision: Literal["int8", "fp16", "fp32"], accept_licence: bool, as_json: bool) -> None:
    """Add the model of SOURCE as NAME, by default the folder's own name.

    SOURCE is a folder: one that `aladin export` wrote, or a public encoder as transformers saves it (config.json,
    model.safetensors, tokenizer.json). Such an encoder is exported, which needs aladin[encoders]. Nothing of it is ever run.
    hf:OWNER/NAME, or hf:OWNER/NAME@REVISION, is fetched from the Hugging Face Hub, which needs aladin[hub].

    \b
    aladin model add clip-vit-base-patch32 b32
    aladin search photos "a dog in the snow" --model b32
    """
    from aladin.encoder.hub import PREFIX, Fetched, fetched
    from aladin.encoder.registry import about_model, add_model_folder

    found: Fetched | None = None
    if source.startswith(PREFIX):
        found = fetched(source, lambda licence: accept_licence or _accepted(source, licence))
    folder = _folder(source) if found is None else found.folder
    chosen = name or (folder.resolve().name if found is None else found.name.rpartition("/")[2])
    is_ours = (folder / "model.toml").is_file()
    about = about_model(add_model_folder(folder, chosen) if is_ours else _add_encoder(folder, chosen, precision, found))
    if as_json:
        print_lines(json.dumps(asdict(about), indent=2))
    else:
        licence = about.licence or "its card states none"
        print_line(f"added {about.name}: {about.family}, {about.bytes / 1e6:,.0f} MB, licence: {licence}")


@model.command(name="list")
@JSON
def list_models(as_json: bool) -> None:
    """The models that were added, and the one that comes with aladin."""
    from aladin.encoder.folder import shipped_model
    from aladin.encoder.registry import about_model, added_models

    found = [about_model(shipped_model()), *added_models()]
    if as_json:
        print_lines(json.dumps({"models": [asdict(about) for about in found]}, indent=2))
        return
    for about in found:
        print_line(f"{about.name:<32} {about.family:<14} {about.bytes / 1e6:>7,.0f} MB  {about.licence}")


@model.command
@click.argument("name")
@JSON
def show(name: str, as_json: bool) -> None:
    """What the model NAME is: its sizes, what it sees and reads, its licence and source. NAME may be a folder."""
    from aladin.encoder.registry import about_model, added_model, model_at

    folder = model_at(name)
    facts = _facts(folder if folder.is_dir() else added_model(name))
    about = asdict(about_model(folder if folder.is_dir() else added_model(name)))
    if as_json:
        print_lines(json.dumps(about | facts, indent=2))
        return
    about["bytes"] = f"{about['bytes'] / 1e6:,.1f} MB"
    for key, value in (about | facts).items():
        print_line(f"{key.replace('_', ' '):<16} {value}")


@model.command
@click.argument("name")
def remove(name: str) -> None:
    """Delete the model that was added as NAME; collections that it encoded stay, and need it again to be searched."""
    from aladin.encoder.registry import remove_model

    print_line(f"removed {remove_model(name)}", err=True)


def _folder(source: str) -> Path:
    """The folder that is to be added; a ModelError that says what else was given."""
    folder = Path(source)
    if not folder.is_dir():
        raise ModelError(f"{folder} is no folder; give one that `aladin export` or transformers wrote")
    for file, whose in REFUSED.items():
        if (folder / file).is_file() and not (folder / "model.safetensors").is_file():
            raise ModelError(
                f"{folder} has {whose} layout ({file}), which is not read yet; give the encoder as transformers saves it, with "
                "config.json, model.safetensors and tokenizer.json, or a folder that `aladin export` wrote"
            )
    if not any((folder / file).is_file() for file in ("model.toml", "config.json")):
        raise ModelError(
            f"{folder} has neither model.toml nor config.json; known layouts are a folder that `aladin export` wrote, and an "
            "encoder as transformers saves it"
        )
    return folder


def _accepted(source: str, licence: str) -> bool:
    """Whether whoever sits there accepts a licence."""
    stated = f"licence {licence!r}, which is not an open one" if licence else "no stated licence"
    if not sys.stdin.isatty():
        raise ConfigError(f"{source} has {stated}; read its card, and give --accept-licence if it allows what you do")
    return click.confirm(f"{source} has {stated}; does it allow what you do?", err=True)


def _add_encoder(folder: Path, name: str, precision: Literal["int8", "fp16", "fp32"], found: "Fetched | None" = None) -> Path:
    from aladin.encoder.hub import PREFIX
    from aladin.encoder.registry import models_home, new_model

    try:
        from aladin.exporting.encoders import add as add_encoder

        with new_model(name) as draft:
            of, revision = (folder.resolve().name, "") if found is None else (f"{PREFIX}{found.name}", found.revision)
            add_encoder(folder, draft, precision=precision, name=of, revision=revision)
    except ModuleNotFoundError as error:
        if error.name not in NEEDED:
            raise
        raise ConfigError(f"the package {error.name} is not installed; run pip install 'aladin[encoders]'") from None
    return models_home() / name


def _facts(folder: Path) -> dict[str, object]:
    """What a model's settings say to people."""
    from aladin.config import read_toml
    from aladin.encoder.folder import ModelFolder

    opened = ModelFolder.open(folder)
    config, prepared = opened.config, opened.config.preprocessing
    try:
        calibrated = "calibration" in read_toml(folder / "model.toml")
    except AladinError:
        calibrated = False
    own = "its own" if config.encoder.sigmoid else "none; `aladin calibrate` gives them"
    return {
        "fingerprint": opened.fingerprint,
        "vector_dim": config.vector_dim,
        "token_dim": config.heads.encoded_token_dim,
        "regions": config.regions,
        "picture": f"{prepared.size} px, {prepared.fit}",
        "text_pieces": prepared.caption_pieces,
        "region_share": config.encoder.share if config.encoder.family else 1.0,
        "probabilities": "calibrated" if calibrated else own,
    }
