"""One writer, many readers: whatever is done in whatever order, a collection says what its folder held at the last look."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aladin.collection.indexing import index_folder
from aladin.collection.lock import WriterLock, holder_of
from aladin.collection.settings import IndexConfig
from aladin.collection.sqlite import Collection
from aladin.collection.store import default_file
from aladin.collection.verify import verify
from aladin.collection.writer import CollectionWriter
from aladin.encoder.encoder import Encoder
from aladin.encoder.folder import ModelFolder
from aladin.errors import CollectionLocked
from aladin.pictures.listing import FileState
from aladin.pictures.photographs import Photograph
from tests.changing_folder import ChangingFolder
from tests.killed_indexing import DecodersHere
from tests.tiny_model import DIM, GRID, TOKEN_DIM, build_tiny_model

READERS = 8


# R5: at once.


@pytest.mark.slow
def test_eight_readers_beside_a_writer_see_committed_states_only(tmp_path: Path, model_path: Path) -> None:
    """Each transaction adds ten rows and removes five; a reader that sees other numbers saw a half of one."""
    model, place = ModelFolder.open(model_path), tmp_path / "c.sqlite"
    done, wrong, looks = threading.Event(), [], []

    def look() -> None:
        while not done.is_set():
            with Collection.open(place) as reader, reader.snapshot():
                counts, generation = reader.counts(), reader.generation
                rows = sum(len(ids) for ids, _ in reader.vector_blocks())
                states = (counts.get("ok", 0), counts.get("removed", 0))
                if rows != states[0] or states[0] != states[1] or states != (5 * (generation - 1), 5 * (generation - 1)):
                    wrong.append((generation, counts, rows))
                looks.append(generation)

    with CollectionWriter.create(place, tmp_path) as writer:
        writer.use_model(model)
        readers = [threading.Thread(target=look) for _ in range(READERS)]
        for reader in readers:
            reader.start()
        for step in range(60):
            with writer.transaction():
                numbers = add_rows(writer, 10, step)
                writer.remove(numbers[:5])
        done.set()
        for reader in readers:
            reader.join()
    assert not wrong
    assert len(looks) >= READERS


def add_rows(writer: CollectionWriter, rows: int, seed: int) -> list[int]:
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(rows, DIM)).astype(np.float32)
    tokens = random.normal(size=(rows, GRID**2, TOKEN_DIM)).astype(np.float32)
    files = [FileState(f"{seed}-{row}.png", 1, 1) for row in range(rows)]
    return writer.add([Photograph(file, file.path.encode(), 4, 3, None) for file in files], vectors, tokens)


@pytest.mark.slow
def test_a_second_indexing_command_ends_with_5_and_says_who_is_first(tmp_path: Path, model_path: Path) -> None:
    place = default_file(tmp_path)
    (tmp_path / "a.png").write_bytes(b"")
    with CollectionWriter.create(place, tmp_path):
        command = [sys.executable, "-m", "aladin", "index", tmp_path, "--model", model_path]
        second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == 5
    assert f"is being written by process {os.getpid()} on " in second.stderr
    assert second.stderr.count("\n") == 1


def test_a_lock_is_seen_without_being_taken(tmp_path: Path) -> None:
    assert holder_of(tmp_path / "c.sqlite") is None
    lock = WriterLock(tmp_path / "c.sqlite")
    assert f"process {os.getpid()} on " in (holder_of(tmp_path / "c.sqlite") or "")
    with pytest.raises(CollectionLocked):
        WriterLock(tmp_path / "c.sqlite")
    lock.release()
    assert holder_of(tmp_path / "c.sqlite") is None
    WriterLock(tmp_path / "c.sqlite").release()


def test_the_lock_of_a_stopped_holder_is_still_its_own(tmp_path: Path) -> None:
    script = "import sys, time; from pathlib import Path; from aladin.collection.lock import *\n"
    script += "lock = WriterLock(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script, tmp_path / "c.sqlite"], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.send_signal(signal.SIGSTOP)
        with pytest.raises(CollectionLocked):
            WriterLock(tmp_path / "c.sqlite")
        child.send_signal(signal.SIGKILL)
    WriterLock(tmp_path / "c.sqlite").release()


def test_a_lock_file_of_nonsense_holds_nobody_up(tmp_path: Path) -> None:
    (tmp_path / "c.sqlite.lock").write_bytes(b"\xff{not json")
    WriterLock(tmp_path / "c.sqlite").release()
    assert json.loads((tmp_path / "c.sqlite.lock").read_text())["pid"] == os.getpid()


# Any order of everything.


class CollectionOfAFolder(RuleBasedStateMachine):
    """A folder that changes, its collection, and what the collection ought to say: for each path the content's hash."""

    def __init__(self) -> None:
        super().__init__()
        self.scratch = Path(tempfile.mkdtemp())
        self.model = build_tiny_model(self.scratch / "model")
        self.encoder = Encoder.load(self.model, threads=1)
        self.removed: dict[str, str] = {}
        self.expected: dict[str, str] = {}
        self.ids: dict[str, int] = {}

    def teardown(self) -> None:
        shutil.rmtree(self.scratch)

    @initialize(seed=st.integers(0, 10))
    def make(self, seed: int) -> None:
        self.folder = ChangingFolder(self.scratch / "photos", np.random.default_rng(seed), at_most=12)
        self.place = default_file(self.folder.root)
        self.folder.change()
        self.index()

    @rule()
    def change(self) -> None:
        self.folder.change()

    @rule(batch=st.integers(1, 5), confirm=st.booleans())
    def index(self, batch: int = 16, confirm: bool = False) -> None:
        with CollectionWriter.create(self.place, self.folder.root) as writer:
            index_folder(writer, self.encoder, IndexConfig(batch_images=batch, workers=1, confirm_deletes=confirm))
            if confirm:
                assert writer.counts().get("offline", 0) == 0
        found = {name: self.digest(name) for name in self.folder.names()}
        now = {digest: name for name, digest in found.items() if name not in self.expected}
        # What was removed stays so under another name.
        self.removed = {name if name in found else now.get(digest, name): digest for name, digest in self.removed.items()}
        self.expected = {name: digest for name, digest in found.items() if name not in self.removed}

    @precondition(lambda self: self.expected)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.expected)))
        with CollectionWriter.create(self.place, self.folder.root) as writer, writer.transaction():
            writer.remove(writer.ids_below(name))
        self.removed[name] = self.expected.pop(name)

    @rule()
    def compact(self) -> None:
        with CollectionWriter.create(self.place, self.folder.root) as writer:
            writer.compact()

    @rule()
    def interrupted(self) -> None:
        def stop(done: int, total: int) -> None:
            raise KeyboardInterrupt

        with CollectionWriter.create(self.place, self.folder.root) as writer, suppress(KeyboardInterrupt):
            index_folder(writer, self.encoder, IndexConfig(batch_images=1, workers=1), stop)
        self.index()

    def digest(self, name: str) -> str:
        return hashlib.sha256((self.folder.root / name).read_bytes()).hexdigest()

    @invariant()
    def says_what_it_ought_to(self) -> None:
        if not hasattr(self, "place"):
            return
        with Collection.open(self.place) as reader:
            rows = {row.path: row for row in reader.images("ok")}
            assert {path: (row.sha256 or b"").hex() for path, row in rows.items()} == self.expected
            ids = np.concatenate([ids for ids, _ in reader.vector_blocks()] or [np.empty(0, dtype=np.int64)])
            assert sorted(ids.tolist()) == sorted(row.id for row in rows.values())
            reader.tokens(ids.tolist())
        assert verify(self.place).whole


CollectionOfAFolder.TestCase.settings = settings(max_examples=12, stateful_step_count=12, deadline=None)


@pytest.mark.usefixtures("decoding_here")
class TestAnyOrder(CollectionOfAFolder.TestCase):  # type: ignore[name-defined,misc]
    pass


@pytest.fixture
def decoding_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aladin.collection.indexing.Decoders", DecodersHere)
