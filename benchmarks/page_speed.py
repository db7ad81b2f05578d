"""How soon the page shows hits: `python benchmarks/page_speed.py --rows 10000`. Needs chromium and `aladin[dev]`.

The example photographs are given so many names (as links: no room is taken), their vectors and tokens a little noise each, and
`aladin serve` and Debian's chromium do what they do for a person: a sentence is typed, hits are painted, thumbnails are made
anew and shown. Printed, over so many sentences: from Enter to the frame that shows the hits, from the last letter to that
frame (with the pause by which the page knows that typing has ended), and from Enter to the last thumbnail in sight.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from screenshot import ARGUMENTS

from aladin.collection.store import default_file
from aladin.collection.writer import CollectionWriter
from aladin.encoder.encoder import Encoder
from aladin.encoder.folder import shipped_model
from aladin.pictures.listing import FileState
from aladin.pictures.photographs import Photograph
from aladin.pictures.pixels import open_image, to_pixels

PHOTOS = Path(__file__).parents[1] / "examples" / "photos"
WORDS = ("dog", "cat", "man", "woman", "child", "snow", "beach", "red", "car", "runs", "jumps", "music", "street", "night")
NOISE = 0.02  # for each dimension of vectors and tokens, whose length is 1
BLOCK = 1000
# When the last key was pressed, and when all photographs in sight had loaded after it.
WATCH = """
() => {
  const watch = (window.watch = { key: 0, thumbnails: 0 });
  addEventListener("keydown", (event) => Object.assign(watch, { key: event.timeStamp, thumbnails: 0 }), true);
  const inSight = (tile) => tile.getBoundingClientRect().top < innerHeight && tile.getBoundingClientRect().bottom > 0;
  const look = () => {
    const [hits] = performance.getEntriesByName("aladin-hits-painted").slice(-1);
    if (!watch.thumbnails && hits?.startTime > watch.key) {
      const tiles = [...document.querySelectorAll(".tile")].filter(inSight);
      if (tiles.length && tiles.every((tile) => tile.classList.contains("loaded"))) watch.thumbnails = performance.now();
    }
    requestAnimationFrame(look);
  };
  look();
}
"""
DONE = "() => window.watch.thumbnails > 0"
TIMES = """
() => {
  const [hits] = performance.getEntriesByName("aladin-hits-painted").slice(-1);
  return [hits.startTime - window.watch.key, window.watch.thumbnails - window.watch.key];
}
"""


def build(folder: Path, rows: int) -> None:
    """A folder of `rows` photographs and its collection."""
    encoder, draws = Encoder.load(shipped_model()), np.random.default_rng(0)
    files = sorted(PHOTOS.glob("*.jpg"))
    fitting = encoder.model.config.preprocessing.fitting
    encoded = encoder.encode_images(np.stack([to_pixels(open_image(path.read_bytes()), fitting) for path in files]))
    sizes = [Image.open(path).size for path in files]
    copies = Path(shutil.copytree(PHOTOS, folder / ".originals"))
    with CollectionWriter.create(default_file(folder), folder) as collection:
        collection.use_model(encoder.model)
        for start in range(0, rows, BLOCK):
            chosen = np.arange(start, min(start + BLOCK, rows)) % len(files)
            photographs = []
            for row, file in enumerate(chosen, start):
                place = folder / f"{row:06}.jpg"
                place.hardlink_to(copies / files[file].name)
                state = FileState(place.name, place.stat().st_size, place.stat().st_mtime_ns)
                photographs.append(Photograph(state, place.name.encode(), *sizes[file], None))
            with collection.transaction():
                collection.add(photographs, noisy(encoded.vectors[chosen], draws), noisy(encoded.regions[chosen], draws))


def noisy(rows: np.ndarray, draws: np.random.Generator) -> np.ndarray:
    moved: np.ndarray = rows + draws.normal(scale=NOISE, size=rows.shape).astype(np.float32)
    moved /= np.linalg.norm(moved, axis=-1, keepdims=True)
    return moved


def timed(page: Page, sentence: str, by_enter: bool) -> tuple[float, float]:
    """Milliseconds from the last key to painted hits, and to the last thumbnail in sight."""
    if by_enter:
        page.evaluate("text => { document.getElementById('query').value = text; }", sentence)
        page.locator("#query").press("Enter")
    else:
        page.locator("#query").fill("")
        page.locator("#query").press_sequentially(sentence, delay=60)
    page.wait_for_function(DONE)
    hits, thumbnails = page.evaluate(TIMES)
    return hits, thumbnails


def tell(name: str, values: list[float]) -> None:
    print(f"{name}: p50 {np.percentile(values, 50):.0f} ms, p95 {np.percentile(values, 95):.0f} ms ({len(values)} sentences)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--sentences", type=int, default=60)
    options = parser.parse_args()
    random.seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "photos"
        folder.mkdir()
        build(folder, options.rows)
        command = [sys.executable, "-m", "aladin", "serve", str(folder), "--port", "0", "--no-index"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server, sync_playwright() as playwright:
            assert server.stderr is not None
            address = server.stderr.readline().split(" at ")[1].split()[0]
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
            page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
            page.goto(address)
            page.wait_for_selector(".tile.loaded")
            page.evaluate(WATCH)
            sentences = [" ".join(random.choices(WORDS, k=5)) for _ in range(2 * options.sentences + 6)]
            for sentence in sentences[:6]:
                timed(page, sentence, by_enter=True)  # graphs and caches are loaded
            entered = [timed(page, sentence, by_enter=True) for sentence in sentences[6 : options.sentences + 6]]
            typed = [timed(page, sentence, by_enter=False) for sentence in sentences[options.sentences + 6 :]]
            browser.close()
            server.terminate()
    tell("Enter to painted hits", [hits for hits, _ in entered])
    tell("last letter to painted hits", [hits for hits, _ in typed])
    tell("Enter to the last thumbnail in sight", [thumbnails for _, thumbnails in entered])


if __name__ == "__main__":
    main()
