"""Files are decoded by other processes, and the worst file costs no more than itself."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aladin.collection.settings import IndexConfig
from aladin.errors import ConfigError, DataError
from aladin.pictures.decoding import Decoders
from aladin.pictures.fitting import Fitting
from aladin.pictures.limits import ENCODING_MB, MIN_DECODE_MB, DecodingLimits
from aladin.pictures.listing import FileState
from aladin.pictures.opening import open_image
from aladin.pictures.photographs import Decoded, Unreadable
from aladin.pictures.pixels import to_pixels
from tests.hostile_images import bombs, damaged, encoded, fifteen_formats, picture, png

SIZE = 16
FUZZED = 450


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    with Decoders(DecodingLimits(workers=1, seconds=20.0, memory_mb=400)) as pool:
        yield pool


@pytest.fixture
def suspicious() -> Iterator[Decoders]:
    """Decoders with little time and memory."""
    with Decoders(DecodingLimits(workers=1, seconds=1.5, memory_mb=MIN_DECODE_MB)) as pool:
        yield pool


def read(pool: Decoders, path: Path) -> Decoded | Unreadable:
    return pool.submit(path.parent, FileState(path.name, 1, 1), Fitting(SIZE)).result()


def read_bytes(pool: Decoders, scratch: Path, content: bytes, name: str = "a.jpg") -> Decoded | Unreadable:
    (scratch / name).write_bytes(content)
    return read(pool, scratch / name)


def processes_of(pool: Decoders) -> list["subprocess.Popen[bytes] | None"]:
    return [child.process for child in pool.children.all]


@pytest.mark.parametrize("name", fifteen_formats())
def test_a_process_decodes_as_this_one_does(decoders: Decoders, tmp_path: Path, name: str) -> None:
    content = fifteen_formats()[name]
    found = read_bytes(decoders, tmp_path, content, name)
    assert isinstance(found, Decoded)
    np.testing.assert_array_equal(found.pixels, to_pixels(open_image(content, draft_size=SIZE), Fitting(SIZE)))
    assert (found.photograph.width, found.photograph.height) == ((32, 48) if name == "baseline.jpg" else (48, 32))


def test_a_process_loads_nothing_large() -> None:
    script = "import sys; import aladin.pictures.decoding_worker; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "onnxruntime", "torch", "jaxtyping", "tokenizers", "click"} & set(loaded)


def test_no_process_starts_before_there_is_a_file() -> None:
    with Decoders(DecodingLimits(2, 1.0, 512)) as pool:
        assert processes_of(pool) == []


def test_no_process_is_left(tmp_path: Path) -> None:
    with Decoders(DecodingLimits(2, 5.0, 512)) as pool:
        futures = [pool.submit(tmp_path, FileState(f"{n}.jpg", 1, 1), Fitting(SIZE)) for n in range(8)]
        assert all(future.result() for future in futures)
        started = [process for process in processes_of(pool) if process]
        assert started
    assert all(process.returncode is not None for process in started)


def test_a_decoder_ends_with_its_parent(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(picture(), "PNG"))
    script = (
        "import os, sys; from pathlib import Path; from aladin.pictures.decoding import *\n"
        "from aladin.pictures.listing import FileState\n"
        "pool = Decoders(DecodingLimits(1, 5.0, 512))\n"
        "pool.submit(Path(sys.argv[1]), FileState('a.png', 1, 1), Fitting(16)).result()\n"
        "print(pool.children.all[0].process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    child = int(subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, check=False).stdout)
    for _ in range(500):
        if not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]:
            return
        time.sleep(0.01)
    pytest.fail("the decoding process outlived its parent")


# What goes wrong in a process.


def test_a_crash_costs_one_file(decoders: Decoders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = tmp_path / "good.png"
    good.write_bytes(encoded(picture(), "PNG"))
    assert isinstance(read(decoders, good), Decoded)
    crashing = "from aladin.pictures import decoding_worker as w; import os; real = w.answer\n"
    crashing += "w.answer = lambda r: os.abort() if r['path'].endswith('crash.jpg') else real(r)\nw.main()"
    monkeypatch.setattr("aladin.pictures.decoding.WORKER", crashing)
    with Decoders(DecodingLimits(1, 10.0, 512)) as pool:
        assert isinstance(read(pool, good), Decoded)
        found = read_bytes(pool, tmp_path, b"x", "crash.jpg")
        assert isinstance(found, Unreadable)
        assert found.reason == "crashes its decoder (SIGABRT)"
        assert isinstance(read(pool, good), Decoded)


@pytest.mark.slow
def test_a_file_that_takes_too_long_costs_its_time_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = "from aladin.pictures import decoding_worker as w; import time; real = w.answer\n"
    slow += "w.answer = lambda r: time.sleep(60) if r['path'].endswith('slow.jpg') else real(r)\nw.main()"
    monkeypatch.setattr("aladin.pictures.decoding.WORKER", slow)
    with Decoders(DecodingLimits(1, 2.0, 512)) as pool:
        found = read_bytes(pool, tmp_path, b"x", "slow.jpg")
        assert isinstance(found, Unreadable)
        assert found.reason == "takes longer than 2 s to decode"
        assert isinstance(read_bytes(pool, tmp_path, encoded(picture(), "PNG"), "good.png"), Decoded)


@pytest.mark.slow
def test_a_picture_beyond_the_memory_limit_is_a_reason(suspicious: Decoders, tmp_path: Path) -> None:
    rows = zlib_rows(9000, 9000)
    found = read_bytes(suspicious, tmp_path, png(9000, 9000, data=rows), "large.png")
    assert isinstance(found, Unreadable)
    assert "memory" in found.reason or "longer" in found.reason
    assert isinstance(read_bytes(suspicious, tmp_path, encoded(picture(), "PNG"), "small.png"), Decoded)


def zlib_rows(width: int, height: int) -> bytes:
    import zlib

    return zlib.compress(bytes((width * 3 + 1) * height), 1)


def test_a_file_that_exhausts_a_used_process_is_tried_by_a_fresh_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hoarding = "from aladin.pictures import decoding_worker as w; real, count = w.answer, []\n"
    hoarding += "def answer(r):\n    count.append(1)\n"
    hoarding += "    return real(r) if len(count) < 3 else ({'failure': 'memory', 'reason': 'is full'}, b'')\n"
    hoarding += "w.answer = answer; w.main()"
    monkeypatch.setattr("aladin.pictures.decoding.WORKER", hoarding)
    with Decoders(DecodingLimits(1, 10.0, 512)) as pool:
        for number in range(5):
            assert isinstance(read_bytes(pool, tmp_path, encoded(picture(), "PNG"), f"{number}.png"), Decoded)


def test_a_decoder_that_cannot_start_ends_the_run_and_blames_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aladin.pictures.decoding.WORKER", "import a_library_that_is_not_there")
    (tmp_path / "a.png").write_bytes(encoded(picture(), "PNG"))
    with (
        Decoders(DecodingLimits(1, 10.0, 512)) as pool,
        pytest.raises(DataError, match=r"no process can be started to decode pictures \(exit code 1\)"),
    ):
        read(pool, tmp_path / "a.png")


def test_a_process_is_replaced_after_so_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aladin.pictures.decoding.FILES_PER_PROCESS", 3)
    with Decoders(DecodingLimits(1, 10.0, 512)) as pool:
        pids = []
        for number in range(7):
            assert isinstance(read_bytes(pool, tmp_path, encoded(picture(), "PNG"), f"{number}.png"), Decoded)
            process = processes_of(pool)[0]
            assert process is not None
            pids.append(process.pid)
    assert len(set(pids)) == 3


def test_a_decoder_can_write_no_file_and_takes_no_part_in_ctrl_c(decoders: Decoders, tmp_path: Path) -> None:
    read_bytes(decoders, tmp_path, encoded(picture(), "PNG"), "a.png")
    process = processes_of(decoders)[0]
    assert process is not None
    limits = Path(f"/proc/{process.pid}/limits").read_text()
    assert [line.split()[3:5] for line in limits.splitlines() if line.startswith("Max file size")] == [["0", "0"]]
    assert os.getpgid(process.pid) != os.getpgrp()


# Ceilings.


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (IndexConfig(workers=4), (4, 2048)),
        (IndexConfig(workers=4, max_memory_mb=ENCODING_MB + 2048), (4, 512)),
        (IndexConfig(workers=4, max_memory_mb=1024), (1, 576)),
        (IndexConfig(workers=2, max_memory_mb=ENCODING_MB + MIN_DECODE_MB), (1, MIN_DECODE_MB)),
        (IndexConfig(workers=1, max_memory_mb=100_000), (1, 2048)),
    ],
)
def test_a_ceiling_is_shared_by_the_decoders(config: IndexConfig, expected: tuple[int, int]) -> None:
    limits = config.decoding_limits
    assert (limits.workers, limits.memory_mb) == expected


def test_a_ceiling_too_low_to_work_below_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected at least 640 MB"):
        IndexConfig(max_memory_mb=500)


# I1, I2, I6: whatever is in the file.


def test_damaged_files_are_pictures_or_reasons_and_break_nothing(decoders: Decoders, tmp_path: Path) -> None:
    assert fuzz(decoders, tmp_path, FUZZED, seed=0)["crashes"] == 0


def fuzz(decoders: Decoders, scratch: Path, count: int, seed: int) -> dict[str, float]:
    """Decode damaged files; counts, the longest time, and how often a process died over one."""
    survey = {"decoded": 0.0, "refused": 0.0, "crashes": 0.0, "timeouts": 0.0, "slowest": 0.0}
    for name, content in damaged(fifteen_formats(), count, seed):
        started = time.perf_counter()
        found = read_bytes(decoders, scratch, content, name)
        survey["slowest"] = max(survey["slowest"], time.perf_counter() - started)
        if isinstance(found, Decoded):
            assert found.pixels.shape == (SIZE, SIZE, 3)
            survey["decoded"] += 1
        else:
            assert found.reason.isprintable()
            assert "\n" not in found.reason
            survey["refused"] += 1
            survey["crashes"] += "crashes" in found.reason
            survey["timeouts"] += "longer" in found.reason
    return survey


@pytest.mark.slow
@pytest.mark.parametrize("name", ["50000x50000.png", "wide.png", "eps.jpg", "pdf.jpg", "spider.jpg", "svg.jpg", "fpx.jpg"])
def test_bombs_are_refused(decoders: Decoders, tmp_path: Path, name: str) -> None:
    found = read_bytes(decoders, tmp_path, bombs()[name], name)
    assert isinstance(found, Unreadable)
    expected = "pixels" if name in ("50000x50000.png", "wide.png") else "is not an image of a known format"
    assert expected in found.reason


@pytest.mark.slow
def test_bombs_take_little_memory(tmp_path: Path) -> None:
    """All of them by one process: its peak stays within 64 MB of what an ordinary picture takes."""
    with Decoders(DecodingLimits(1, 20.0, 400)) as pool:
        read_bytes(pool, tmp_path, encoded(picture(), "PNG"), "plain.png")
        read_bytes(pool, tmp_path, b"?" * 99, "unknown.png")  # loads the openers of all formats
        before = peak_of(pool)
        for name, content in bombs().items():
            read_bytes(pool, tmp_path, content, name)
        assert peak_of(pool) - before <= 64 << 10


def peak_of(pool: Decoders) -> int:
    """Kilobytes."""
    process = processes_of(pool)[0]
    assert process is not None
    status = Path(f"/proc/{process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


@pytest.mark.parametrize(
    ("name", "kind"), [("a.png", "JPEG"), ("b.jpg", "PNG"), ("c.gif", "WEBP"), ("d.tif", "BMP"), ("e.jpeg", "TIFF")]
)
def test_the_content_decides_not_the_name(decoders: Decoders, tmp_path: Path, name: str, kind: str) -> None:
    assert isinstance(read_bytes(decoders, tmp_path, encoded(picture(), kind), name), Decoded)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><title>404</title>", "is not an image of a known format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not an image of a known format"),
        (b"GIF89a", "is not an image of a known format"),
        (encoded(picture(), "JPEG")[:300], "cannot be decoded"),
    ],
)
def test_what_is_no_picture_has_a_reason(decoders: Decoders, tmp_path: Path, content: bytes, reason: str) -> None:
    found = read_bytes(decoders, tmp_path, content)
    assert isinstance(found, Unreadable)
    assert found.reason.startswith(reason)


def test_a_large_jpeg_is_read_at_a_fraction_of_its_size(decoders: Decoders, tmp_path: Path) -> None:
    """More pixels than may be decoded: phones take such pictures, and a JPEG can be decoded at an eighth of its size."""
    image = Image.new("L", (16_000, 12_500), 200)
    found = read_bytes(decoders, tmp_path, encoded(image, "JPEG", quality=10))
    assert isinstance(found, Decoded)
    assert (found.photograph.width, found.photograph.height) == (16_000, 12_500)
