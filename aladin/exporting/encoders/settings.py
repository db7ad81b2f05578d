"""What model.toml says of an encoder: how its image processor and tokenizer prepare pictures and texts."""

from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer

from aladin.encoder.preprocessing import Preprocessing
from aladin.errors import ConfigError, ModelError
from aladin.exporting.encoders.source import Source
from aladin.exporting.encoders.towers import Towers

RESAMPLING = {2: "bilinear", 3: "bicubic"}  # of Pillow's numbers


def preprocessing_of(source: Source, towers: Towers) -> Preprocessing:
    """Of the source's image processor and tokenizer; ModelError where search cannot do the same."""
    try:
        return Preprocessing(exact=True, **_pictures(source, towers), **_texts(source, towers))
    except ConfigError as error:
        raise ModelError(f"{source.path} prepares pictures or texts as search cannot: {error}") from None


def _pictures(source: Source, towers: Towers) -> dict[str, Any]:
    """How its image processor makes normalised pixels of a picture."""
    settings = source.picture_settings
    for step in ("do_resize", "do_rescale"):
        if not settings.get(step, True):
            raise _unknown(source, step, False, "true")
    if settings.get("resample") not in RESAMPLING:
        raise _unknown(source, "resample", settings.get("resample"), "2 (bilinear) or 3 (bicubic)")
    size, fit = _size_and_fit(source, settings)
    wanted = towers.patches_a_side * int(towers.model.config.vision_config.patch_size)
    if size != int(towers.model.config.vision_config.image_size) or size != wanted:
        raise ModelError(
            f"{source.path}: the image processor makes pictures of {size} px, and the network has whole patches for "
            f"{wanted} px (image_size {towers.model.config.vision_config.image_size}); they must agree"
        )
    factor = float(settings.get("rescale_factor", 1 / 255))
    mean: tuple[float, ...] = (0.0,) * 3
    deviation: tuple[float, ...] = (1.0,) * 3
    if settings.get("do_normalize", True):
        mean, deviation = _three(source, "image_mean"), _three(source, "image_std")
    mean, deviation = (tuple(value / factor for value in values) for values in (mean, deviation))
    return {"size": size, "fit": fit, "resampling": RESAMPLING[settings["resample"]], "mean": mean, "deviation": deviation}


def _texts(source: Source, towers: Towers) -> dict[str, Any]:
    """How its tokenizer makes pieces of a text, within the positions that the network has."""
    first, last = _special_pieces(source)
    limit = min(towers.positions, source.text_limit or towers.positions)
    padding = source.special("pad_token") if towers.padded_to else ""
    for piece in (first, last, padding):
        if piece and source.tokenizer.token_to_id(piece) is None:
            raise ModelError(f"{source.path / 'tokenizer.json'} has no piece {piece!r}, which tokenizer_config.json names")
    pooled = towers.pooled_piece
    if pooled is not None and (not last or source.tokenizer.token_to_id(last) != pooled):
        raise ModelError(f"{source.path}: the network pools the piece {pooled}, and its tokenizer ends texts with {last!r}")
    if towers.padded_to and not padding:
        path = source.path / "tokenizer_config.json"
        raise ModelError(f"{path} names no pad_token, and the network reads padded texts; add it")
    return {
        "first_piece": first,
        "last_piece": last,
        "caption_pieces": limit,
        "lower_case": towers.lower_case,
        "pad_to": towers.padded_to,
        "pad_piece": padding,
    }


def _size_and_fit(source: Source, settings: Mapping[str, Any]) -> tuple[int, str]:
    size = settings.get("size")
    crop = settings.get("crop_size") if settings.get("do_center_crop") else None
    side = crop.get("height") if isinstance(crop, dict) and crop.get("height") == crop.get("width") else crop
    if isinstance(size, int):
        size = {"shortest_edge": size}
    if isinstance(size, dict):
        edge = size.get("shortest_edge")
        if isinstance(edge, int) and side == edge:
            return edge, "crop"
        height = size.get("height")
        if isinstance(height, int) and height == size.get("width") and side in (None, height):
            return height, "squash"
    expected = "a square, or a shortest_edge that is the side of the centre crop"
    raise _unknown(source, "size", f"{size} with crop {crop}", expected)


def _three(source: Source, key: str) -> tuple[float, ...]:
    values = source.picture_settings.get(key)
    if isinstance(values, list | tuple) and len(values) == 3 and all(isinstance(value, int | float) for value in values):
        return tuple(map(float, values))
    raise _unknown(source, key, values, "three numbers")


def _special_pieces(source: Source) -> tuple[str, str]:
    """The pieces that the tokenizer puts before and after every text, "" for none."""
    first, last = _around(source.tokenizer)
    if not first + last:  # as transformers does: the flags count where tokenizer.json says nothing
        flags = source.tokenizer_settings
        first = [source.special("bos_token")] if flags.get("add_bos_token") else []
        last = [source.special("eos_token")] if flags.get("add_eos_token") else []
    if len(first) > 1 or len(last) > 1:
        raise ModelError(f"{source.path / 'tokenizer.json'} puts {first} and {last} around a text; expected at most one each")
    return "".join(first), "".join(last)


def _around(tokenizer: Tokenizer) -> tuple[list[str], list[str]]:
    inner = tokenizer.encode("a", add_special_tokens=False).tokens
    whole = tokenizer.encode("a").tokens
    start = next(start for start in range(len(whole)) if whole[start : start + len(inner)] == inner)
    return whole[:start], whole[start + len(inner) :]


def _unknown(source: Source, key: str, found: object, expected: str) -> ModelError:
    return ModelError(f"the image processor of {source.path} has {key} {found!r}; search knows {expected}")
