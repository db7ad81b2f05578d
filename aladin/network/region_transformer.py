"""One BERT-type transformer over words, or over tags and regions: cells of image networks' maps, or a detector's regions."""

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from aladin.encoder.config import ModelConfig
from aladin.encoder.word_pieces import WordPieces
from aladin.errors import ConfigError
from aladin.network import official
from aladin.network.backbone import Backbone, ImageReader, ParameterGroup
from aladin.network.detections import DetectionReader
from aladin.network.grid import (
    GRID_CHANNELS,
    SHRINKAGE,
    GridNetwork,
    cell_geometry,
    cell_pooling,
    class_names,
    grid_network,
    top_classes,
)
from aladin.network.grid_features import GridRows, PhotographReader
from aladin.network.minilm import load_minilm
from aladin.network.tensors import ImageInput, Regions, Tokens
from aladin.network.transformer import EncoderLayer, Transformer, initialise


class RegionTransformer(Transformer, Backbone):
    """With an image network it starts from trunk maps of photographs, without from a detector's regions."""

    geometry: Tensor
    pooling: Tensor
    name_pieces: Tensor
    name_mask: Tensor
    special_pieces: Tensor
    never_learned = tuple(f"image_network.{part}." for part in ("trunks", "tag_tail", "classifier"))

    def __init__(self, config: ModelConfig, image_network: GridNetwork | None) -> None:
        _check_sizes(config)
        super().__init__(config.backbone, config.heads.deep)
        self.config = config
        self.depth = 1 + config.backbone.layers if config.heads.deep else 1
        self.image_dim = config.backbone.region_features + config.backbone.region_geometry
        self.reads_photographs = image_network is not None
        self.regions = config.regions if self.reads_photographs else None
        self.image_network = image_network
        if image_network is None:
            return
        limits, grid = config.limits, config.image.grid
        self.register_buffer("geometry", cell_geometry(grid), persistent=False)
        self.register_buffer("pooling", cell_pooling(config.preprocessing.size // SHRINKAGE, grid), persistent=False)
        # Word pieces of each class name, and of the special tokens around an image's tags: as a rule [CLS], [SEP].
        self.register_buffer("name_pieces", torch.zeros(len(class_names()), limits.tag_pieces, dtype=torch.int64))
        self.register_buffer("name_mask", torch.zeros(len(class_names()), limits.tag_pieces, dtype=torch.bool))
        self.register_buffer("special_pieces", torch.zeros(2, dtype=torch.int64))

    def caption_states(self, pieces: Int[Tensor, "captions words"], mask: Bool[Tensor, "captions words"]) -> Tokens:
        return self.encode_captions(pieces, mask)

    def image_states(self, images: ImageInput) -> Tokens:
        """As the seam says; the original's quirk lets the first region stand for the image (official.py)."""
        encoded = self.encode_images(images.tags, images.tag_mask, images.regions)
        return official.image_states(encoded, self.config.quirks)

    def joint_states(
        self, pieces: Int[Tensor, "pairs words"], mask: Bool[Tensor, "pairs words"], images: ImageInput
    ) -> Float[Tensor, "pairs dim"]:
        return self.encode_pairs(pieces, mask, images.tags, images.tag_mask, images.regions)

    def image_reader(self, tokenizer: Path) -> ImageReader:
        """Of a detector's regions as they stand in their folder, or of photographs' trunk maps and tags."""
        if self.image_network is None:
            return DetectionReader(tokenizer, self.config)
        return PhotographReader(self.image_network, self.config.preprocessing.fitting, self.config.limits.tags)

    def seen(self, read: ImageInput | GridRows, keep: Int[Tensor, "images kept"] | None = None) -> ImageInput:
        if isinstance(read, ImageInput):
            return read
        return self.image_input(read.maps.float(), read.tags.long(), keep)

    def look(self, pixels: UInt8[Tensor, "images height width 3"]) -> ImageInput:
        """Photographs with the tags that their image network finds on the way."""
        assert self.image_network is not None, "a detector's regions are no pixels"
        maps = self.image_network.maps(pixels)
        return self.image_input(maps, top_classes(self.image_network.class_logits(maps), self.config.limits.tags))

    def image_input(
        self,
        maps: Float[Tensor, "images channels rows columns"],
        classes: Int[Tensor, "images classes"],
        keep: Int[Tensor, "images kept"] | None = None,
    ) -> ImageInput:
        """What the transformer reads of trunk maps and tags (class numbers); with `keep`, only those regions of each image."""
        assert self.image_network is not None, "trunk maps need an image network"
        features = self.image_network.regions(maps)
        if features.shape[1] != len(self.geometry):
            features = self.pooling.to(features.dtype) @ features
        boxes = self.geometry.to(features.dtype).expand(features.shape[0], -1, -1)
        every = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
        regions = Regions(features, boxes, every)
        return ImageInput(*self.tags(classes), regions if keep is None else regions.kept(keep))

    def tags(self, classes: Int[Tensor, "images classes"]) -> tuple[Int[Tensor, "images tags"], Bool[Tensor, "images tags"]]:
        """The tag sequence of each image, [CLS] names [SEP], and its mask; a name shorter than its slots leaves a gap."""
        names = self.name_pieces[classes].flatten(1)
        special = self.special_pieces.expand(classes.shape[0], 2)
        first, last = special[:, :1], special[:, 1:]
        real = torch.ones_like(first, dtype=torch.bool)
        mask = torch.cat([real, self.name_mask[classes].flatten(1), real], dim=1)
        return torch.cat([first, names, last], dim=1), mask

    def start(self, tokenizer: WordPieces, pretrained: bool, minilm: Path | None = None) -> None:
        """A fresh region embedding; the transformer from MiniLM-L6 if `pretrained`, and the class names as they are spelt."""
        if self.image_network is not None:
            pieces, mask = tokenizer.name_pieces(class_names(), self.config.limits.tag_pieces)
            self.name_pieces.copy_(torch.from_numpy(pieces))
            self.name_mask.copy_(torch.from_numpy(mask))
            first = tokenizer.special(self.config.quirks.image_first_token)
            self.special_pieces.copy_(torch.tensor([first, tokenizer.sep]))
        for part in (self.embeddings, self.region_embedding, self.layers):
            part.apply(initialise)
        if pretrained:
            load_minilm(self, minilm)

    def restart_never_learned(self) -> None:
        if self.image_network is not None:
            self.image_network = grid_network(self.config.image.networks, pretrained=True)

    def fresh(self, config: ModelConfig) -> "RegionTransformer":
        return RegionTransformer(config, copy.deepcopy(self.image_network))

    def parameter_groups(self) -> tuple[ParameterGroup, ...]:
        """The region embedding, which starts from scratch; the layers from the top; what may learn of the image networks."""
        layers = [*reversed(self.layers), self.embeddings]
        tails = () if self.image_network is None else tuple(self.image_network.region_tails.parameters())
        return (
            ParameterGroup("backbone", "new", tuple(self.region_embedding.parameters())),
            *(ParameterGroup("backbone", "pretrained", tuple(part.parameters()), above) for above, part in enumerate(layers)),
            ParameterGroup("image_network", "image", tails),
        )

    def normalised_readers(self) -> Mapping[nn.Module, list[nn.Linear]]:
        readers: dict[nn.Module, list[nn.Linear]] = {}
        for layer in self.layers:
            assert isinstance(layer, EncoderLayer)
            readers[layer.attention] = [layer.attention.query, layer.attention.key, layer.attention.value]
            readers[layer.intermediate] = [layer.intermediate]
        return readers

    def known_captions(self, tokenizer: WordPieces) -> tuple[Int[Tensor, "captions words"], Bool[Tensor, "captions words"]]:
        """The class names of its image network, or without one of ImageNet, each between [CLS] and [SEP]."""
        if self.image_network is None:
            pieces = tokenizer.encode(class_names())
            return torch.from_numpy(pieces.ids), torch.from_numpy(pieces.mask)
        return self.tags(torch.arange(len(self.name_pieces))[:, None])


def _check_sizes(config: ModelConfig) -> None:
    """ConfigError where two settings contradict each other."""
    backbone, heads, limits, image = config.backbone, config.heads, config.limits, config.image
    preprocessing, size = config.preprocessing, config.preprocessing.size
    for name, count in (("heads in [backbone]", backbone.heads), ("matching_heads in [heads]", heads.matching_heads)):
        if backbone.dim % count:
            raise ConfigError(f"dim in [backbone] is {backbone.dim} and {name} is {count}; expected a multiple of it")
    photograph = image.source == "photograph"
    longest = max(preprocessing.caption_pieces, 2 + limits.tags * limits.tag_pieces if photograph else limits.object_pieces)
    if longest > backbone.positions:
        raise ConfigError(
            f"positions in [backbone] is {backbone.positions}, but [limits] allow {longest} word pieces; raise it or lower them"
        )
    if not photograph:
        return
    if size % SHRINKAGE or size < SHRINKAGE * image.grid:
        raise ConfigError(
            f"size in [preprocessing] is {size} and grid in [image] is {image.grid}; expected a multiple of {SHRINKAGE}, at "
            f"least {SHRINKAGE} x grid"
        )
    preprocessing.check_normalisation()
    features = GRID_CHANNELS * len(image.networks)
    if (backbone.region_features, backbone.region_geometry) != (features, 6):
        raise ConfigError(
            f"region_features and region_geometry in [backbone] are {backbone.region_features} and "
            f"{backbone.region_geometry}; the image networks give {features} and 6"
        )
    if limits.tags > len(class_names()):
        raise ConfigError(f"tags in [limits] is {limits.tags}; expected at most {len(class_names())}, the classes there are")
