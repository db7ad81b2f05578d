"""Images with captions, for training and evaluation, from the formats that people already have."""

from aladin.datasets.decoding import without_undecodable
from aladin.datasets.examples import Dataset, Example
from aladin.datasets.reading import read_dataset
from aladin.datasets.sources import FileOnDisk, ImageSource, TarMember, ZipMember

__all__ = ["Dataset", "Example", "FileOnDisk", "ImageSource", "TarMember", "ZipMember", "read_dataset", "without_undecodable"]
