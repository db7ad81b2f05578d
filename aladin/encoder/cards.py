"""What the card of a model on the Hub, its README.md, states in its front matter."""

import itertools
from pathlib import Path


def stated_licence(folder: Path) -> str:
    """The licence that a folder's card states; empty where it states none. One that is "other" is called by its own name."""
    card = folder / "README.md"
    stated = front_matter(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else {}
    licence = stated.get("license", stated.get("licence", ""))
    return stated.get("license_name", licence) if licence == "other" else licence


def front_matter(card: str) -> dict[str, str]:
    """The plain settings between the two lines of --- that a card on the Hub begins with; of a list, its first item."""
    opening, *lines = card.splitlines() or [""]
    if opening.strip() != "---":
        return {}
    found: dict[str, str] = {}
    name = ""
    for line in itertools.takewhile(lambda line: line.strip() != "---", lines):
        if line[:1] not in ("", " ", "-", "#"):
            name, _, value = line.partition(":")
            found[name] = value.partition(" #")[0].strip().strip("\"'")
        elif line.strip().startswith("- ") and not found.get(name):
            found[name] = line.strip()[2:].strip("\"'")
    return found
