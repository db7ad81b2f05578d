import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal

import aladin.collection.sqlite
from aladin.collection.database import failures_named
from aladin.collection.sqlite import Collection
from aladin.collection.store import default_file
from aladin.collection.tokens import token_blob, tokens_from_blobs
from aladin.collection.writer import CollectionWriter, FileState, Photograph
from aladin.encoder.folder import ModelFolder
from aladin.errors import AladinError, CollectionLocked, DataError, IndexMismatch
from tests.conftest import fill, stored

NOBODY = 65534
numbers = st.floats(-1, 1, width=32, allow_subnormal=False)
token_sets = st.lists(st.integers(0, 5).flatmap(lambda count: arrays(np.float32, (count, 4), elements=numbers)), max_size=5)


@pytest.fixture
def model(model_path: Path) -> ModelFolder:
    return ModelFolder.open(model_path)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return default_file(tmp_path)


@pytest.fixture
def writer(tmp_path: Path, place: Path) -> Iterator[CollectionWriter]:
    with CollectionWriter.create(place, tmp_path) as collection:
        yield collection


# Tokens in a blob.


@given(sets=token_sets)
def test_stored_tokens_are_the_originals_within_half_a_step(sets: list[np.ndarray]) -> None:
    tokens = tokens_from_blobs([token_blob(tokens) for tokens in sets], dim=4)
    for row, original in enumerate(sets):
        assert tokens.mask[row].sum() == len(original)
        restored = tokens.values[row][tokens.mask[row]] * tokens.scales[row][tokens.mask[row], None]
        steps = np.abs(original).max(axis=1, initial=0)[:, None] / 127
        assert (np.abs(restored - original) <= steps * 0.501).all()


@given(sets=token_sets)
def test_stored_tokens_do_not_depend_on_those_read_with_them(sets: list[np.ndarray]) -> None:
    blobs = [token_blob(tokens) for tokens in sets]
    together = tokens_from_blobs(blobs, dim=4)
    for row, blob in enumerate(blobs):
        alone = tokens_from_blobs([blob], dim=4)
        assert_array_equal(together.values[row][together.mask[row]], alone.values[0])


# Rows.


def test_what_was_added_is_read_back(writer: CollectionWriter, model: ModelFolder) -> None:
    vectors, tokens = fill(writer, model, 20)
    with Collection.open(writer.path) as collection:
        assert len(collection) == 20
        ids, read = zip(*collection.vector_blocks(), strict=True)
        assert ids[0].tolist() == list(range(1, 21))
        assert_allclose(read[0], vectors, atol=1e-3)
        asked = [7, 3, 20]
        stored_tokens = collection.tokens(asked)
        restored = stored_tokens.values * stored_tokens.scales[:, :, None]
        assert_allclose(restored, tokens[[number - 1 for number in asked]], atol=0.005)
        assert [row.id for row in collection.rows(asked)] == asked
        assert collection.fingerprint == model.fingerprint


@pytest.mark.parametrize("block", [1, 3, 19, 20, 1000])
def test_block_size_does_not_change_what_is_read(
    writer: CollectionWriter, model: ModelFolder, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(writer, model, 20)
    whole = np.concatenate([vectors for _, vectors in writer.vector_blocks()])
    monkeypatch.setattr(aladin.collection.sqlite, "BLOCK_ROWS", block)
    assert_array_equal(np.concatenate([vectors for _, vectors in writer.vector_blocks()]), whole)


def test_an_image_added_again_keeps_its_id_and_metadata(writer: CollectionWriter, model: ModelFolder) -> None:
    fill(writer, model, 3)
    writer.database.execute('UPDATE images SET metadata = \'{"place": "sea"}\' WHERE id = 2')
    fill(writer, model, 3)
    assert [row.id for row in writer.images()] == [1, 2, 3]
    assert writer.row(2).metadata == {"place": "sea"}


def test_a_transaction_that_fails_leaves_nothing(writer: CollectionWriter, model: ModelFolder) -> None:
    fill(writer, model, 3)
    before, generation = stored(writer), writer.generation

    def change_and_fail() -> None:
        with writer.transaction():
            writer.mark_failed(FileState("bad.png", 1, 1), "is empty")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        change_and_fail()
    assert (stored(writer), writer.generation) == (before, generation)


def test_every_transaction_raises_the_generation_and_marks_its_rows(writer: CollectionWriter, model: ModelFolder) -> None:
    fill(writer, model, 2)
    first = writer.generation
    fill(writer, model, 1, seed=1)
    assert writer.generation > first
    assert [row.generation for row in writer.images()] == [first, first, writer.generation]


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_a_vector_without_direction_is_never_stored(writer: CollectionWriter, model: ModelFolder, value: float) -> None:
    writer.use_model(model)
    photograph = Photograph(FileState("a.png", 1, 1), b"", 1, 1, None)
    with pytest.raises(DataError, match="not finite, or zero"), writer.transaction():
        writer.add([photograph], np.full((1, 6), value, np.float32), np.ones((1, 4, 8), np.float32))
    assert len(writer) == 0


@pytest.mark.parametrize(("table", "column"), [("vectors", "vector"), ("tokens", "tokens")])
def test_a_flipped_bit_is_noticed_when_it_is_read(
    writer: CollectionWriter, model: ModelFolder, table: str, column: str
) -> None:
    fill(writer, model, 5)
    blob = bytearray(writer.database.rows(f"SELECT {column} FROM {table} WHERE id = 3")[0][0])
    blob[len(blob) // 2] ^= 16
    writer.database.execute(f"UPDATE {table} SET {column} = ? WHERE id = 3", (bytes(blob),))
    with pytest.raises(DataError, match=r"stores of '0-000002\.png' is damaged"):
        list(writer.vector_blocks()) if table == "vectors" else writer.tokens([1, 3])


def test_tokens_that_are_missing_are_noticed(writer: CollectionWriter, model: ModelFolder) -> None:
    fill(writer, model, 2)
    writer.database.execute("DELETE FROM tokens WHERE id = 2")
    with pytest.raises(DataError, match="damaged"):
        writer.tokens([1, 2])


def test_a_full_disk_is_said_and_loses_nothing(writer: CollectionWriter, model: ModelFolder) -> None:
    fill(writer, model, 5)
    before = stored(writer)
    pages = writer.database.rows("PRAGMA page_count")[0][0]
    writer.database.rows(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(DataError, match=r"disk is full; make room"):
        fill(writer, model, 500, seed=1)
    assert stored(writer) == before
    writer.database.rows("PRAGMA max_page_count = 1000000")
    fill(writer, model, 500, seed=1)
    assert len(writer) == 505


# Who may open it.


def test_a_second_writer_is_told_who_holds_the_lock(writer: CollectionWriter, tmp_path: Path) -> None:
    with pytest.raises(CollectionLocked, match=f"process {os.getpid()} on {socket.gethostname()} since 2"):
        CollectionWriter.create(writer.path, tmp_path)
    assert CollectionLocked.exit_code == 5


def test_the_lock_of_a_killed_writer_is_taken_over(place: Path, tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from aladin.collection.writer import CollectionWriter as W\n"
        "writer = W.create(Path(sys.argv[1]), Path(sys.argv[2])); print('held', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", script, place, tmp_path], stdout=subprocess.PIPE)
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(CollectionLocked, match=f"process {child.pid} "):
            CollectionWriter.create(place, tmp_path)
        child.send_signal(signal.SIGKILL)
    CollectionWriter.create(place, tmp_path).close()


def test_a_reader_sees_only_what_is_committed(writer: CollectionWriter, model: ModelFolder) -> None:
    fill(writer, model, 3)
    with Collection.open(writer.path) as reader:
        with writer.transaction():
            writer.mark_failed(FileState("bad.png", 1, 1), "is empty")
            assert reader.counts() == {"ok": 3}
        assert reader.counts() == {"ok": 3, "failed": 1}
        with reader.snapshot():
            assert len(reader) == 3
            fill(writer, model, 2, seed=1)
            assert len(reader) == 3
        assert len(reader) == 5


def test_closing_leaves_one_file_and_the_lock(writer: CollectionWriter, model: ModelFolder) -> None:
    fill(writer, model, 3)
    writer.close()
    assert sorted(file.name for file in writer.path.parent.iterdir()) == ["collection.sqlite", "collection.sqlite.lock"]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody can reach, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def count_rows_without_write_permission(path: Path) -> subprocess.CompletedProcess[str]:
    script = (
        "import os, sys; from pathlib import Path; from aladin.collection.sqlite import Collection\n"
        f"os.geteuid() or os.setuid({NOBODY})  # root may write everything\n"
        "with Collection.open(Path(sys.argv[1])) as c: print(len(c), sum(len(ids) for ids, _ in c.vector_blocks()))"
    )
    return subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=False)


def test_a_collection_can_be_read_where_nothing_can_be_written(open_folder: Path, model: ModelFolder) -> None:
    path = default_file(open_folder)
    with CollectionWriter.create(path, open_folder) as writer:
        fill(writer, model, 7)
    path.parent.chmod(0o555)
    assert count_rows_without_write_permission(path).stdout == "7 7\n"
    path.parent.chmod(0o755)


def test_unfinished_writes_are_not_passed_over_in_silence(open_folder: Path, tmp_path: Path, model: ModelFolder) -> None:
    source, path = default_file(tmp_path), default_file(open_folder)
    path.parent.mkdir()
    with CollectionWriter.create(source, tmp_path) as writer:
        fill(writer, model, 7)
        for suffix in ("", "-wal"):  # as a crash leaves them
            shutil.copy(f"{source}{suffix}", f"{path}{suffix}")
    path.parent.chmod(0o555)
    assert "was not closed by its writer" in count_rows_without_write_permission(path).stderr
    path.parent.chmod(0o755)
    with Collection.open(path) as collection:
        assert len(collection) == 7


def test_a_place_that_cannot_be_written_names_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="name another place with --collection"):
        CollectionWriter.create(tmp_path / "file" / "collection.sqlite", tmp_path)


# What may be opened.


def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    text, database = tmp_path / "text", tmp_path / "database"
    text.write_text("not a database " * 1000)
    connection = sqlite3.connect(database)
    connection.execute("CREATE TABLE songs (title)")
    connection.close()
    for path in (text, database):
        before = path.read_bytes()
        for opening in (lambda path=path: Collection.open(path), lambda path=path: CollectionWriter.create(path, tmp_path)):
            with pytest.raises(DataError, match="is not a collection of aladin"):
                opening()
        assert path.read_bytes() == before


def test_a_missing_collection_names_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no collection at .*; make one with `aladin index FOLDER`"):
        Collection.open(tmp_path / "none.sqlite")


def test_a_newer_format_is_refused(writer: CollectionWriter, tmp_path: Path) -> None:
    writer.database.set("schema_version", 99)
    writer.close()
    for opening in (lambda: Collection.open(writer.path), lambda: CollectionWriter.create(writer.path, tmp_path)):
        with pytest.raises(IndexMismatch, match="has format 99 and this version of aladin reads formats up to 3"):
            opening()


def test_vectors_of_another_model_are_refused_naming_both(
    writer: CollectionWriter, model: ModelFolder, other_model_path: Path
) -> None:
    fill(writer, model, 2)
    other = ModelFolder.open(other_model_path)
    expected = (
        rf"model colours {model.fingerprint[:12]}, this is other-colours {other.fingerprint[:12]} \(image.onnx, text.onnx"
    )
    for check in (writer.check_model, writer.use_model):
        with pytest.raises(IndexMismatch, match=expected) as caught:
            check(other)
    assert caught.value.exit_code == 6


def test_the_same_model_in_another_place_is_welcome(
    writer: CollectionWriter, model: ModelFolder, model_path: Path, tmp_path: Path
) -> None:
    fill(writer, model, 2)
    copy = ModelFolder.open(Path(shutil.copytree(model_path, tmp_path / "copy")))
    writer.check_model(copy)
    writer.use_model(copy)
    assert "parts" not in ModelFolder.open(tmp_path / "copy").__dict__
    reopened = ModelFolder.open(tmp_path / "copy")
    writer.check_model(reopened)
    assert "parts" not in reopened.__dict__, "a known stamp spares the hashing"


def test_a_collection_moves_with_its_folder_and_serves_no_other(tmp_path: Path, model: ModelFolder) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    with CollectionWriter.create(default_file(old), old) as writer:
        fill(writer, model, 2)
    old.rename(new)
    with CollectionWriter.create(default_file(new), new) as writer:
        assert writer.root == new
    with pytest.raises(DataError, match=r"holds the images of .*new, not of "):
        CollectionWriter.create(default_file(new), tmp_path)


def test_a_collection_elsewhere_follows_its_folder_only_when_that_is_gone(tmp_path: Path, model: ModelFolder) -> None:
    place, old, new = tmp_path / "elsewhere" / "c.sqlite", tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    CollectionWriter.create(place, old).close()
    with pytest.raises(DataError, match="not of"):
        CollectionWriter.create(place, new)
    new.rmdir()
    old.rename(new)
    with CollectionWriter.create(place, new) as writer:
        assert writer.root == new


def test_a_malformed_database_is_one_sentence(writer: CollectionWriter, model: ModelFolder) -> None:
    fill(writer, model, 300)
    writer.close()
    content = bytearray(writer.path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    writer.path.write_bytes(content)
    with (
        pytest.raises(AladinError, match=r"cannot be used: .*; run `aladin repair FOLDER`"),
        Collection.open(writer.path) as opened,
    ):
        list(opened.images())


# Q3: everything that vectors depend on.


def edited(folder: Path, setting: str, value: str) -> Path:
    text = (folder / "model.toml").read_text()
    name, before = next((line, line.split(" = ")) for line in text.splitlines() if line.startswith(setting))
    (folder / "model.toml").write_text(text.replace(name, f"{before[0]} = {value}"))
    return folder


CHANGES = {
    "image.onnx": lambda folder: (folder / "image.onnx").write_bytes((folder / "image.onnx").read_bytes() + b" "),
    "text.onnx": lambda folder: (folder / "text.onnx").write_bytes((folder / "text.onnx").read_bytes() + b" "),
    "weights.bin": lambda folder: (folder / "weights.bin").write_bytes(b"other weights"),
    "tokenizer.json": lambda folder: (folder / "tokenizer.json").write_text("{}"),
    "[preprocessing] size": lambda folder: edited(folder, "size", "32"),
    "[image] grid": lambda folder: edited(folder, "grid", "4"),
    "[heads] token_dim": lambda folder: edited(folder, "token_dim", "16"),
    "[heads] pooling": lambda folder: edited(folder, "pooling", '"MrAVGw"'),
    "[preprocessing] caption_pieces": lambda folder: edited(folder, "caption_pieces", "20"),
}


@pytest.mark.parametrize("part", CHANGES)
def test_a_model_that_differs_anywhere_is_refused_naming_where(
    writer: CollectionWriter, model: ModelFolder, model_path: Path, tmp_path: Path, part: str
) -> None:
    fill(writer, model, 2)
    copy = Path(shutil.copytree(model_path, tmp_path / "copy"))
    CHANGES[part](copy)
    for check in (writer.check_model, writer.use_model):
        with pytest.raises(IndexMismatch, match=rf"\({re.escape(part)} differ\)") as caught:
            check(ModelFolder.open(copy))
        assert caught.value.exit_code == 6


def test_another_way_of_encoding_is_refused(
    writer: CollectionWriter, model: ModelFolder, model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(writer, model, 2)
    monkeypatch.setattr("aladin.encoder.folder.ENCODING", 2)
    copy = Path(shutil.copytree(model_path, tmp_path / "copy"))
    with pytest.raises(IndexMismatch, match=r"\(encoding differ\)"):
        writer.check_model(ModelFolder.open(copy))


def test_settings_that_searching_does_not_mind_may_differ(
    writer: CollectionWriter, model: ModelFolder, model_path: Path, tmp_path: Path
) -> None:
    fill(writer, model, 2)
    copy = Path(shutil.copytree(model_path, tmp_path / "copy"))
    (copy / "model.toml").write_text((copy / "model.toml").read_text().replace("[limits]", "[limits]\ntags = 7"))
    writer.check_model(ModelFolder.open(copy))


def test_an_interrupt_inside_our_own_sql_function_is_an_interrupt(tmp_path: Path) -> None:
    def interrupted(value: object) -> None:
        raise KeyboardInterrupt

    connection = sqlite3.connect(":memory:")
    connection.create_function("row_checksum", 1, interrupted)
    with pytest.raises(KeyboardInterrupt), failures_named(tmp_path):
        connection.execute("SELECT row_checksum(1)").fetchall()
    connection.close()
