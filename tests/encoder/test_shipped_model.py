"""The model that comes with the package, on the photographs that come with the repository."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from aladin.encoder.folder import shipped_model

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
MAX_MEGABYTES = 45


def aladin(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "aladin", *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("collection") / "photos.sqlite"
    result = aladin("index", str(PHOTOS), "--collection", str(path))
    assert result.returncode == 0, result.stderr
    return path


def test_the_shipped_folder_is_small_and_has_a_card() -> None:
    files = list(shipped_model().iterdir())
    assert sum(file.stat().st_size for file in files) < MAX_MEGABYTES * 1e6
    card = (shipped_model() / "README.md").read_text()
    for expected in ("Flickr8k", "research use", "all-MiniLM-L6-v2", "Recall@1"):
        assert expected in card


@pytest.mark.slow
def test_most_example_queries_have_a_right_answer_among_the_first_three(collection: Path) -> None:
    queries = json.loads((PHOTOS / "queries.json").read_text())
    answered = []
    for row in queries:
        result = aladin("search", str(PHOTOS), row["query"], "--json", "-n", "3", "--no-index", "--collection", str(collection))
        assert result.returncode == 0, result.stderr
        answered.append(any(Path(hit["path"]).name in row["expected"] for hit in json.loads(result.stdout)["hits"]))
    assert sum(answered) >= 0.6 * len(queries)


def test_every_example_photograph_names_its_source_and_licence() -> None:
    with (PHOTOS / "SOURCES.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert set(rows) == {path.name for path in PHOTOS.glob("*.jpg")}
    assert len(rows) >= 30
    for row in rows.values():
        assert all(row[column].strip() for column in ("title", "author", "licence", "source"))
