"""A folder of detections, whatever its files."""

from pathlib import Path

from aladin.datasets.vinvl.folder import FEATURES, FeatureFolder
from aladin.datasets.vinvl.precomputed import PrecomputedFolder, parts_of
from aladin.datasets.vinvl.shards import SHARDS, ShardFolder, is_shard_folder
from aladin.datasets.vinvl.sources import DetectionFolder


def is_feature_folder(path: Path) -> bool:
    """Whether the folder holds a detector's features."""
    return (path / FEATURES).is_file() or is_shard_folder(path) or bool(parts_of(path))


def open_features(path: Path) -> DetectionFolder:
    """The folder at `path`: its shards if it has all of them, else its tables, else features in SCAN's form."""
    if (path / FEATURES).is_file() and not (path / SHARDS).is_file():
        return FeatureFolder.open(path)
    if not (path / FEATURES).is_file() and not is_shard_folder(path) and parts_of(path):
        return PrecomputedFolder.open(path)
    return ShardFolder.open(path) if is_shard_folder(path) else FeatureFolder.open(path)
