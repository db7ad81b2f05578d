"""The original's files to ours: checkpoints to a model folder, caption files to lines of JSON (spec, sections 1.1 and 5).

The only place that opens pickles, and it runs nothing that is in them: PyTorch's restricted unpickler builds tensors, numbers,
text and containers of these, and refuses everything else by its name. argparse.Namespace, in which the original keeps the
options of its run, is let in by name: it is a bag of attributes, and filling one calls no code of the file's choosing.
"""

import argparse
import json
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor

from aladin.datasets.vinvl.detections import BOX_NUMBERS, GEOMETRY
from aladin.encoder.config import (
    BackboneConfig,
    ImageConfig,
    LimitsConfig,
    ModelConfig,
    QuirksConfig,
)
from aladin.encoder.preprocessing import Preprocessing
from aladin.errors import ConfigError, DataError, ModelError
from aladin.exporting.original import HEADS, VINVL, Original, heads_of, length_of
from aladin.files import sha256_of
from aladin.network.backbones import new_backbone
from aladin.network.checkpoints import save_model
from aladin.network.minilm import bert_name
from aladin.network.model import Aladin
from aladin.network.official import RELEASED
from aladin.network.weights import listed

# In every checkpoint and read by nobody: two projections of ALADIN's, VinVL's pooler and classifiers, positions as a list, and
# scale and shift of a distillation loss.
UNUSED = re.compile(
    r"(img_txt_enc\.(img_proj|cap_proj)\.(weight|bias)"
    r"|img_txt_enc\.oscar_model\.(bert\.pooler\.dense|classifier(\.[02])?)\.(weight|bias)"
    r"|img_txt_enc\.oscar_model\.cls\..*"
    r"|img_txt_enc\.oscar_model\.bert\.embeddings\.position_ids"
    r"|distillation_loss\.wb)"
)
# PyTorch raises whatever a damaged file leads it to.
DAMAGED = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError),
    *(struct.error, zipfile.BadZipFile),
)
Purpose = Literal["aladin", "own"]  # what VinVL's weights are to become
FRESH_SEED = 88  # of a matching head that the checkpoint does not have
SPLITS = {"train": "train", "restval": "train", "minival": "val", "val": "val", "test": "test"}


def convert_checkpoint(checkpoint: Path, vinvl: Path, out: Path, purpose: Purpose = "aladin") -> ModelConfig:
    """Write `out`, a model folder, from an ALADIN checkpoint and the VinVL folder that it was trained from.

    `checkpoint` may also be VinVL's own pytorch_model.bin, as a start for training with a fresh matching head: with the
    original's quirks to train "aladin" again, or without any for one's "own". ModelError where a weight is missing, unknown or
    of another shape than config.json says.
    """
    if (out / "model.toml").exists():
        raise ConfigError(f"{out} holds a model already; give another folder or delete that one")
    original = read_checkpoint(checkpoint)
    config = _model_config(original, vinvl, checkpoint, purpose)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(FRESH_SEED)
            model = Aladin(config, new_backbone(config))
    except ConfigError as error:
        raise ModelError(f"{vinvl / 'config.json'} describes no model: {error}") from None
    fill(model, original, checkpoint)
    tokenizer = bert_tokenizer(vinvl / "vocab.txt", config.backbone.vocabulary)
    origin: dict[str, object] = {"file": checkpoint.name, "sha256": sha256_of(checkpoint)}
    if original.epoch is not None:
        origin["epoch"] = original.epoch
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out} cannot be made a folder: {error.strerror}; give another one") from None
    tokenizer.save(str(out / "tokenizer.json"))
    save_model(model, out / "tokenizer.json", out, {"origin": origin})
    return config


def read_checkpoint(path: Path) -> Original:
    """The weights of an ALADIN or VinVL checkpoint; LayerNorms may be called gamma and beta, as in old files."""
    content = unpickled(path)
    if not isinstance(content, Mapping):
        raise ModelError(
            f"{path} holds {type(content).__name__}; expected an ALADIN or VinVL checkpoint, which is a dictionary"
        )
    settings, epoch, options = content.get("config"), content.get("epoch"), content.get("opt")
    weights: Any = content.get("model")
    if weights is None:
        settings = epoch = options = None
        weights = {f"{VINVL}{name}": weight for name, weight in content.items()}
    named = isinstance(weights, Mapping) and all(isinstance(name, str) for name in weights)
    if not named or not all(isinstance(weight, Tensor) for weight in weights.values()):
        raise ModelError(f"{path} holds no weights by name; expected them at the top, as VinVL has them, or under 'model'")
    renamed = {re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name)): weight for name, weight in weights.items()}
    stated = vars(options) if isinstance(options, argparse.Namespace) else options if isinstance(options, Mapping) else {}
    return Original(renamed, settings, stated, epoch if isinstance(epoch, int) else None)


def unpickled(path: Path) -> Any:
    """What torch.save wrote to `path`; ModelError if that is anything but plain data, or no such file."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols, where a file is no pickle at all
            # Mapped: the optimiser's moments, two thirds of a checkpoint, are then never read.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except FileNotFoundError:
        raise ModelError(f"there is no file {path}; give the path of a file that torch.save wrote") from None
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused is None:
            raise ModelError(f"{path} cannot be read as a file of torch.save; copy it again") from None
        raise ModelError(
            f"{path} asks for {refused[1]}, which is no plain data and, for safety, not run; expected tensors, numbers, text "
            "and containers: get the file from its authors"
        ) from None
    except DAMAGED as error:
        raise ModelError(f"{path} cannot be read as a file of torch.save ({type(error).__name__}); copy it again") from None


def caption_lines(path: Path, keys: Sequence[str] | None = None) -> Iterator[str]:
    """A {split}_captions.pt as lines of captions.jsonl: all images, or those of `keys`, in their order.

    The file maps image ids to a list of captions, or to such a list as JSON. DataError where it holds something else.
    """
    try:
        captions = unpickled(path)
    except ModelError as error:
        raise DataError(str(error)) from None
    if not isinstance(captions, Mapping):
        raise DataError(f"{path} holds {type(captions).__name__}; expected a dictionary of image ids and captions")
    by_image = {str(image): texts for image, texts in captions.items()}
    missing = set(keys or ()) - by_image.keys()
    if missing:
        raise DataError(f"{path} has no captions of image {listed(missing)}; give the list of ids that belongs to this split")
    split = SPLITS.get(path.stem.removesuffix("_captions"), "")
    for image in by_image if keys is None else keys:
        yield json.dumps({"image": image, "captions": _texts(by_image[image], image, path), "split": split}, ensure_ascii=False)


def bert_tokenizer(vocabulary: Path, size: int) -> Tokenizer:
    """BERT's uncased WordPiece tokenizer for a vocab.txt of at most `size` pieces, one a line."""
    try:
        pieces = vocabulary.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{vocabulary} cannot be read: {error}; copy VinVL's whole checkpoint folder") from None
    numbers = {piece.rstrip("\r"): number for number, piece in enumerate(pieces)}
    absent = {"[PAD]", "[UNK]", "[CLS]", "[SEP]"} - numbers.keys()
    if absent or len(numbers) < len(pieces) or len(pieces) > size:
        raise ModelError(
            f"{vocabulary} has {len(pieces)} lines, {len(numbers)} of them different, and lacks {listed(absent)}; expected at "
            f"most {size} word pieces, as many as the checkpoint knows, with BERT's special ones: copy it again"
        )
    tokenizer = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def original_name(name: str) -> str:
    """The original's name of one of our weights."""
    for own, theirs in HEADS.items():
        if name.startswith(own):
            rest = name.removeprefix(own)
            return theirs + rest.replace("attention.", "self_attn.", 1).replace("gate.", "gate_ffn.", 1)
    rest = name.split(".", 1)[1]
    rest = rest.replace("region_embedding.linear.", "img_embedding.").removeprefix("region_embedding.")
    return f"{VINVL}bert.{bert_name(rest)}"


def fill(model: Aladin, original: Original, source: Path) -> None:
    """Every weight of the model from the checkpoint, the matching head's only where there is one.

    ModelError names, as the original does, what is missing, unknown or of another shape.
    """
    own, weights, is_aladin = model.state_dict(), original.weights, original.is_aladin
    names = {name: original_name(name) for name in own if is_aladin or not name.startswith("matching_head.")}
    unread = () if model.config.heads.post_layers else (HEADS["post_layers."],)  # built by the original, and read by nobody
    unknown = {
        name for name in weights.keys() - set(names.values()) if not UNUSED.fullmatch(name) and not name.startswith(unread)
    }
    missing = set(names.values()) - weights.keys()
    if missing or unknown:
        raise ModelError(
            f"{source} lacks {listed(missing)} and has unknown {listed(unknown)}; expected the weights that config.json "
            "describes: give the VinVL folder that belongs to the checkpoint"
        )
    for name, key in sorted(names.items(), key=lambda pair: pair[1]):
        if weights[key].shape != own[name].shape:
            found, expected = tuple(weights[key].shape), tuple(own[name].shape)
            raise ModelError(
                f"{source} has {key} of shape {found}; expected {expected} by config.json: give the VinVL folder that belongs "
                "to the checkpoint"
            )
    model.load_state_dict(own | {name: weights[key] for name, key in names.items()})


def _model_config(original: Original, vinvl: Path, source: Path, purpose: Purpose) -> ModelConfig:
    """The architecture, from VinVL's config.json and, for the heads, from the checkpoint."""
    backbone = _backbone_config(vinvl / "config.json", f"{VINVL}bert.LayerNorm.weight" in original.weights)
    heads = heads_of(original, backbone.dim, source)
    quirks = RELEASED if original.is_aladin or purpose == "aladin" else QuirksConfig()
    pieces = length_of(original, "max_seq_length", Preprocessing.caption_pieces, source)
    limits = LimitsConfig(object_pieces=pieces, regions=length_of(original, "max_img_seq_length", LimitsConfig.regions, source))
    return ModelConfig(backbone, heads, limits, ImageConfig(source="detector"), quirks, Preprocessing(caption_pieces=pieces))


def _backbone_config(path: Path, region_layer_norm: bool) -> BackboneConfig:
    try:
        settings = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}; give VinVL's checkpoint folder") from None

    epsilon = _number(settings, "layer_norm_eps", path, 1e-12)
    activation, region_epsilon = settings.get("hidden_act", "gelu"), _number(settings, "img_layer_norm_eps", path, epsilon)
    if activation != "gelu" or (region_layer_norm and region_epsilon != epsilon):
        raise ModelError(
            f"{path} says {activation!r} of hidden_act, {epsilon} of layer_norm_eps, {region_epsilon} of img_layer_norm_eps; "
            "expected 'gelu' and one epsilon, as in VinVL's released models: only these can be converted"
        )
    try:
        return BackboneConfig(
            vocabulary=int(_number(settings, "vocab_size", path)),
            positions=int(_number(settings, "max_position_embeddings", path)),
            dim=int(_number(settings, "hidden_size", path)),
            layers=int(_number(settings, "num_hidden_layers", path)),
            heads=int(_number(settings, "num_attention_heads", path)),
            feed_forward=int(_number(settings, "intermediate_size", path)),
            region_features=int(_number(settings, "img_feature_dim", path, float(BOX_NUMBERS))) - GEOMETRY,
            region_geometry=GEOMETRY,
            region_layer_norm=region_layer_norm,
            layer_norm_eps=epsilon,
            dropout=_number(settings, "hidden_dropout_prob", path, 0.1),
            attention_dropout=_number(settings, "attention_probs_dropout_prob", path, 0.1),
        )
    except ConfigError as error:
        raise ModelError(f"{path} describes no model: {error}") from None


def _number(settings: Any, name: str, path: Path, default: float | None = None) -> float:
    """A setting of config.json."""
    value = settings.get(name, default) if isinstance(settings, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ModelError(f"{path} says {value!r} of {name}; expected a number: give VinVL's checkpoint folder")
    return float(value)


def _texts(value: Any, image: str, path: Path) -> list[str]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        raise DataError(f"{path} has something else than a list of captions for image {image}; expected text or JSON of a list")
    return value
