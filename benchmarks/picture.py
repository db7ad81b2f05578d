"""Draw the README's picture: the first hits of some sentences among the example photographs, as `aladin search` finds them.

python benchmarks/picture.py docs/search.jpg
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

PHOTOS = Path(__file__).parent.parent / "examples" / "photos"
QUERIES = ("a dog", "people playing music", "snow on the mountains", "waves on the beach")
HITS, CELL, GAP, LINE = 5, 208, 8, 40


def hits(query: str, collection: Path) -> list[dict[str, Any]]:
    """What the command finds, as a user would see it."""
    command = [sys.executable, "-m", "aladin", "search", str(PHOTOS), query, "--json", "--top", str(HITS)]
    result = subprocess.run([*command, "--collection", str(collection)], capture_output=True, text=True, check=True)
    found: list[dict[str, Any]] = json.loads(result.stdout)["hits"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    out: Path = parser.parse_args().out
    row = CELL * 3 // 4 + LINE
    sheet = Image.new("RGB", (GAP + HITS * (CELL + GAP), GAP + len(QUERIES) * (row + GAP)), "white")
    draw, large, small = ImageDraw.Draw(sheet), ImageFont.load_default(20), ImageFont.load_default(13)
    with tempfile.TemporaryDirectory() as folder:
        for number, query in enumerate(QUERIES):
            top = GAP + number * (row + GAP)
            draw.text((GAP, top + 6), f"“{query}”", fill="#1a1a1a", font=large)
            for column, hit in enumerate(hits(query, Path(folder) / "collection.sqlite")):
                left = GAP + column * (CELL + GAP)
                photo = ImageOps.fit(Image.open(hit["path"]).convert("RGB"), (CELL, CELL * 3 // 4))
                sheet.paste(photo, (left, top + LINE))
                score = f"{hit['score']:.3f}"
                box = draw.textbbox((left + 6, top + LINE + 5), score, font=small)
                draw.rectangle((box[0] - 4, box[1] - 3, box[2] + 4, box[3] + 3), fill="#000000")
                draw.text((left + 6, top + LINE + 5), score, fill="white", font=small)
    sheet.save(out, quality=85)


if __name__ == "__main__":
    main()
