"""The README and the pages of docs are easy to read: no sentence is long."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MOST_WORDS = 30

# None of these ends a sentence, though a stop and a blank follow.
ABBREVIATIONS = ("e.g.", "i.e.", "et al.", "cf.", "vs.")


def sentences(markdown: str) -> list[str]:
    """The sentences of a page's prose, in order; code, tables, headings and comments are left out.

    A paragraph or an item of a list begins and ends a sentence. Code within a line is one word, a link its text.
    """
    prose = re.sub(r"^```.*?^```$", "\n", markdown, flags=re.MULTILINE | re.DOTALL)
    prose = re.sub(r"<!--.*?-->", "\n", prose, flags=re.DOTALL)
    prose = re.sub(r"^\s*(\||#).*$", "\n", prose, flags=re.MULTILINE)
    found = []
    for block in re.split(r"\n\s*\n|^\s*(?:[-*]|\d+\.)\s+", prose, flags=re.MULTILINE):
        text = re.sub(r"`[^`]+`", "code", block)
        text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
        for abbreviation in ABBREVIATIONS:
            text = text.replace(abbreviation, abbreviation.replace(".", ""))
        found += [" ".join(part.split()) for part in re.split(r"(?<=[.!?])[*_)\"]*\s+", text) if part.strip()]
    return found


def words(sentence: str) -> int:
    """How many words a sentence has: runs without blanks that hold a letter or a digit."""
    return sum(any(letter.isalnum() for letter in word) for word in sentence.split())


def test_sentences_are_found_in_prose_alone() -> None:
    page = """# A heading that is not counted

Text of 3.5 lines, by `aladin search --where "a. B"` (Messina et al. 2022). It [links](https://a.b/c. d)
here! Next?

| a table. | Not counted. |
|---|---|

- one item
- another. And more.

```sh
code. Not counted.
```
The end
"""
    assert sentences(page) == [
        "Text of 3.5 lines, by code (Messina et al 2022).",
        "It links here!",
        "Next?",
        "one item",
        "another.",
        "And more.",
        "The end",
    ]
    assert words("Two - or 3.5 / 4 words?") == 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_sentence_is_long(page: Path) -> None:
    long = [sentence for sentence in sentences(page.read_text(encoding="utf-8")) if words(sentence) > MOST_WORDS]
    assert not long, f"{page.name}: {len(long)} sentences of more than {MOST_WORDS} words, the first: {long[0]}"
