"""A detector's regions in the files of VinVL: reading, writing, checking (spec, section 1.1).

A feature folder holds, for every image, the features of its boxes and the names of its objects:

- `features.tsv`: image id, number of boxes, base64 of boxes x 2054 float32, row by row. A box has 2,048 features and six shares
  of the image: x1/W, y1/H, x2/W, y2/H, w/W, h/H;
- `predictions.tsv`: image id, JSON with the objects in an order of their own (they need not correspond to the boxes);
- `features.lineidx`, `predictions.lineidx`: the byte at which each row starts, one a line;
- `imageid2idx.json`: the row of each image id in features.tsv, from 0.

Without the last three rows are found by reading the whole file. A folder of shards holds the same without base64 (shards.py).
"""

from aladin.datasets.vinvl.checking import check_folder
from aladin.datasets.vinvl.detections import BOX_NUMBERS, Detections, GeometryOrder, Objects, with_geometry
from aladin.datasets.vinvl.detector_output import detector_output, output_detections
from aladin.datasets.vinvl.folder import FeatureFolder, FeatureRow
from aladin.datasets.vinvl.npz import npz_detections, read_npz, write_npz
from aladin.datasets.vinvl.opening import is_feature_folder, open_features
from aladin.datasets.vinvl.problems import Problem
from aladin.datasets.vinvl.shard_writer import SHARD_BYTES, ShardWriter
from aladin.datasets.vinvl.shards import ShardFolder
from aladin.datasets.vinvl.sources import DetectionFolder, DetectionSource
from aladin.datasets.vinvl.tables import read_keys
from aladin.datasets.vinvl.writer import FeatureWriter

__all__ = [
    "BOX_NUMBERS",
    "SHARD_BYTES",
    "DetectionFolder",
    "DetectionSource",
    "Detections",
    "FeatureFolder",
    "FeatureRow",
    "FeatureWriter",
    "GeometryOrder",
    "Objects",
    "Problem",
    "ShardFolder",
    "ShardWriter",
    "check_folder",
    "detector_output",
    "is_feature_folder",
    "npz_detections",
    "open_features",
    "output_detections",
    "read_keys",
    "read_npz",
    "with_geometry",
    "write_npz",
]
