"""Shapes in signatures are checked in every test; and what several test files need: the tiny model, and pictures for it."""

from jaxtyping import install_import_hook

install_import_hook(["aladin"], "beartype.beartype")  # before anything imports aladin

import os  # noqa: E402

# Tests run in as many processes as there are cores. With a thread for each core in each, they would wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import signal  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402
from PIL import Image  # noqa: E402

from aladin.collection.sqlite import Collection  # noqa: E402
from aladin.collection.writer import CollectionWriter, FileState, Photograph  # noqa: E402
from aladin.encoder.encoder import Encoder  # noqa: E402
from aladin.encoder.folder import ModelFolder  # noqa: E402
from tests.tiny_model import COLOURS, DIM, GRID, TOKEN_DIM, build_tiny_model  # noqa: E402

# No time limit for an example: a busy machine is no failure. In CI the same examples each time, so that a commit is judged by
# what it changed; whoever develops draws new ones with each run.
settings.register_profile("aladin", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="CI" in os.environ)
settings.load_profile("aladin")

# A shell starts jobs in the background with interrupts ignored, and so would the commands that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("models") / "colours")


@pytest.fixture(scope="session")
def other_model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("models") / "other-colours", seed=1)


@pytest.fixture
def encoder(model_path: Path) -> Encoder:
    return Encoder.load(model_path, threads=1)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with one picture of each colour, red.png and so on."""
    folder = tmp_path / "photos"
    for seed, name in enumerate(COLOURS):
        paint(folder / f"{name}.png", name, seed=seed)
    return folder


def paint(path: Path, *colours: str, seed: int = 0, size: tuple[int, int] = (32, 24)) -> Path:
    """A picture at `path` in vertical stripes of these colours, with a little noise so that no two are alike."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    stripes = np.array([COLOURS[colour] for colour in colours])[np.arange(width) * len(colours) // width]
    noise = np.random.default_rng(seed).uniform(0, 0.05, (height, width, 3))
    pixels = np.clip(stripes[None] * 0.95 + noise, 0, 1) * 255
    Image.fromarray(pixels.round().astype(np.uint8)).save(path)
    return path


def fill(collection: CollectionWriter, model: ModelFolder, rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of random L2-normalised vectors and tokens without files; returns both as they were before they were stored."""
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(rows, DIM)).astype(np.float32)
    tokens = random.normal(size=(rows, GRID**2, TOKEN_DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    tokens /= np.linalg.norm(tokens, axis=-1, keepdims=True)
    files = [FileState(f"{seed}-{row:06}.png", 1, 1) for row in range(rows)]
    collection.use_model(model)
    with collection.transaction():
        collection.add([Photograph(file, file.path.encode(), 4, 3, None) for file in files], vectors, tokens)
    return vectors, tokens


def stored(collection: Collection) -> dict[str, tuple[object, ...]]:
    """All that a collection says of each path, ids and generations apart."""
    blobs = {
        number: (vector, tokens)
        for number, vector, tokens in collection.database.rows("SELECT id, vector, tokens FROM vectors JOIN tokens USING (id)")
    }
    return {
        row.path: (row.size, row.sha256, row.width, row.height, row.taken, row.status, row.reason, blobs.get(row.id))
        for row in collection.images()
    }
