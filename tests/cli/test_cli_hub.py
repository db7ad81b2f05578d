"""`aladin model add hf:...` from the Hub's own cache, as it is where nothing outside can be reached."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aladin.encoder.cards import stated_licence
from aladin.encoder.hub import FILES, LEFT_OUT
from tests.tiny_encoders import build_encoder

hub = pytest.importorskip("huggingface_hub")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """HF_HOME with one encoder, as an earlier download leaves it."""
    home = tmp_path_factory.mktemp("hf")
    repository = home / "hub" / "models--us--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    build_encoder("clip", repository / "snapshots" / COMMIT)
    return home


def add(home: Path, models: Path, *arguments: str, licence: str = "mit") -> subprocess.CompletedProcess[str]:
    card = home / "hub" / "models--us--tiny" / "snapshots" / COMMIT / "README.md"
    if card.parent.is_dir():
        card.write_text(f"---\ntags:\n- vision\nlicense: {licence}\n---\n# tiny\nlicense: gone\n")
    told = {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "ALADIN_MODELS": str(models)}
    command = [sys.executable, "-m", "aladin", "model", "add", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | told, stdin=subprocess.DEVNULL, check=False)


@pytest.mark.slow
def test_an_encoder_that_was_fetched_before_is_added_without_a_network(cached: Path, tmp_path: Path) -> None:
    done = add(cached, tmp_path, "hf:us/tiny", "--json", "--precision", "fp32")
    assert (done.returncode, done.stderr) == (0, "")
    about = json.loads(done.stdout)
    expected = {"name": "tiny", "family": "clip", "licence": "mit", "source": "hf:us/tiny", "revision": COMMIT}
    assert expected.items() <= about.items()


@pytest.mark.slow
def test_a_licence_that_is_not_open_is_asked_about_first(cached: Path, tmp_path: Path) -> None:
    done = add(cached, tmp_path, "hf:us/tiny@main", licence="apple-amlr")
    assert done.returncode == 1
    assert "has licence 'apple-amlr', which is not an open one; read its card, and give --accept-licence" in done.stderr
    assert list(tmp_path.iterdir()) == []
    done = add(cached, tmp_path, "hf:us/tiny", "mine", "--accept-licence", "--precision", "fp32", licence="apple-amlr")
    assert done.returncode == 0
    assert done.stdout.startswith("added mine: clip, ")
    assert done.stdout.rstrip().endswith("licence: apple-amlr")


@pytest.mark.parametrize("source", ["hf:us/other", "hf:us/other@v1"])
def test_without_a_way_to_the_hub_there_is_one_clear_sentence(source: str, tmp_path: Path) -> None:
    done = add(tmp_path / "empty", tmp_path / "models", source)
    assert done.returncode == 1
    assert done.stderr.startswith(
        "aladin: us/other cannot be fetched: there is no way to the Hub, or HF_HUB_OFFLINE forbids it"
    )
    assert done.stderr.count("\n") == 1


def test_nothing_that_could_run_is_ever_asked_for() -> None:
    offered = ["config.json", "model.safetensors", "model-00001-of-00002.safetensors", "tokenizer.json", "README.md", "LICENSE"]
    refused = ["pytorch_model.bin", "model.pt", "modeling_tiny.py", "tf_model.h5", "flax_model.msgpack", "onnx/model.onnx"]
    refused += ["onnx/config.json", "tokenizer.pkl", "other.safetensors", "run.sh"]
    chosen = hub.utils.filter_repo_objects(offered + refused, allow_patterns=list(FILES), ignore_patterns=list(LEFT_OUT))
    assert list(chosen) == offered


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n", "apache-2.0"),
        ('---\ntags: [a]\nlicense: "mit"\n---\ntext', "mit"),
        ("---\ntags: [a]\n---\nlicense: mit\n", ""),
        ("license: mit\n", ""),
        ("---\nlicense: other\nlicense_name: own-terms\n---\n", "own-terms"),
        ("---\nlicense:\n- mit\n---\n", "mit"),
        ("---\nlicense: mit # as the code\n---\n", "mit"),
        ("", ""),
    ],
)
def test_a_licence_is_what_the_front_matter_of_the_card_states(card: str, licence: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(card)
    assert stated_licence(tmp_path) == licence
