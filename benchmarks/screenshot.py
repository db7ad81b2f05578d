"""Draw the README's picture of the page: `python benchmarks/screenshot.py`. Needs chromium, and the packages of `aladin[dev]`.

The example photographs are copied, indexed by the shipped model and served; the page is looked at by Debian's chromium.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[1]
QUERY, WORD = "people playing music", "music"
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "page.png")
    parser.add_argument("--dark", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        photos = Path(scratch) / "photos"
        shutil.copytree(ROOT / "examples" / "photos", photos, ignore=shutil.ignore_patterns(".aladin"))
        subprocess.run([sys.executable, "-m", "aladin", "index", str(photos), "-q"], check=True)
        command = [sys.executable, "-m", "aladin", "serve", str(photos), "--port", "0", "--no-index"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
            assert server.stderr is not None
            address = server.stderr.readline().split(" at ")[1].split()[0]
            try:
                draw(address, options.out, "dark" if options.dark else "light")
            finally:
                server.terminate()
    print(f"{options.out}: {options.out.stat().st_size / 1000:.0f} kB")


def draw(address: str, out: Path, scheme: str) -> None:
    """The hits of the query above, with one of its words lit in all of them."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        page = browser.new_context(viewport={"width": 1280, "height": 720}, color_scheme=scheme).new_page()  # type: ignore[arg-type]
        page.goto(f"{address}#q={QUERY.replace(' ', '+')}")
        painted(page)
        page.locator(".word .label", has_text=WORD).hover()
        page.wait_for_timeout(600)
        page.screenshot(path=out)
        browser.close()
    quantised(out)


def painted(page: Page) -> None:
    page.wait_for_selector(".tile")
    page.wait_for_function("() => [...document.querySelectorAll('.tile')].every((tile) => tile.classList.contains('loaded'))")
    page.wait_for_timeout(400)


def quantised(path: Path) -> None:
    """A PNG of 256 colours, a third of the size."""
    from PIL import Image

    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(256, dither=Image.Dither.FLOYDSTEINBERG)
    small.save(path, optimize=True)


if __name__ == "__main__":
    main()
