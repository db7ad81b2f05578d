"""Images with captions, for training and evaluation, from the formats that people already have."""

from aladin.datasets.decoding import placing_undecodable, without_undecodable
from aladin.datasets.examples import Dataset, Example
from aladin.datasets.origins import DataOrigin
from aladin.datasets.overlap import check_apart
from aladin.datasets.reading import Data, dataset_of, read_dataset
from aladin.datasets.sources import FileOnDisk, ImageSource, TarMember, ZipMember

__all__ = [
    "Data",
    "DataOrigin",
    "Dataset",
    "Example",
    "FileOnDisk",
    "ImageSource",
    "TarMember",
    "ZipMember",
    "check_apart",
    "dataset_of",
    "placing_undecodable",
    "read_dataset",
    "without_undecodable",
]
