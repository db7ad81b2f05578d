"""Image files of every format, and ways to damage them; bombs; and files that pretend to be images."""

import io
import struct
import zlib
from collections.abc import Iterator
from functools import cache

import numpy as np
from PIL import Image

PIL_FORMATS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tif", "AVIF": ".avif"}


def picture(size: tuple[int, int] = (48, 32), seed: int = 0) -> Image.Image:
    """Soft colours with noise, so that every format stores something."""
    random = np.random.default_rng(seed)
    ramp = np.linspace(0, 200, size[0])[None, :, None] * [1.0, 0.6, 0.3] + np.linspace(0, 55, size[1])[:, None, None]
    return Image.fromarray(np.clip(ramp + random.normal(0, 6, (size[1], size[0], 3)), 0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@cache
def fifteen_formats() -> dict[str, bytes]:
    """A small file of each kind that people have, without HEIC."""
    image, frames = picture(), [picture(seed=seed) for seed in (1, 2)]
    deep = Image.fromarray((np.arange(48 * 32, dtype=np.uint16) * 40).reshape(32, 48))
    exif = Image.Exif()
    exif[274], exif[271], exif[272] = 6, "Maker", "Model"
    return {
        "baseline.jpg": encoded(image, "JPEG", exif=exif),
        "progressive.jpg": encoded(image, "JPEG", progressive=True, quality=60),
        "cmyk.jpg": encoded(image.convert("CMYK"), "JPEG"),
        "mpo.jpg": encoded(image, "MPO", save_all=True, append_images=frames),
        "rgb.png": encoded(image, "PNG"),
        "palette.png": encoded(image.quantize(16), "PNG", transparency=3),
        "deep.png": encoded(deep, "PNG"),
        "animated.png": encoded(image, "PNG", save_all=True, append_images=frames),
        "animated.gif": encoded(image, "GIF", save_all=True, append_images=frames),
        "lossy.webp": encoded(image, "WEBP"),
        "lossless.webp": encoded(image, "WEBP", lossless=True),
        "plain.bmp": encoded(image, "BMP"),
        "lzw.tif": encoded(image, "TIFF", compression="tiff_lzw"),
        "jpeg.tif": encoded(image, "TIFF", compression="jpeg"),
        "av1.avif": encoded(image, "AVIF", speed=10),
    }


def damaged(files: dict[str, bytes], count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """So many damaged copies: bits flipped, cut short, header bytes set, pieces doubled, removed or swapped with another's."""
    random = np.random.default_rng(seed)
    names = sorted(files)
    for number in range(count):
        name = names[number % len(names)]
        content = bytearray(files[name])
        doing = random.choice(["bits", "cut", "header", "double", "remove", "splice"])
        start = int(random.integers(len(content)))
        length = int(random.integers(1, max(2, len(content) // 4)))
        if doing == "bits":
            for _ in range(int(random.integers(1, 20))):
                content[int(random.integers(len(content)))] ^= 1 << int(random.integers(8))
        elif doing == "cut":
            del content[max(1, int(len(content) * random.integers(100) / 100)) :]
        elif doing == "header":
            for _ in range(int(random.integers(1, 6))):
                content[int(random.integers(min(64, len(content))))] = int(random.choice([0, 1, 127, 128, 254, 255]))
        elif doing == "double":
            content[start:start] = content[start : start + length]
        elif doing == "remove":
            del content[start : start + length]
        else:
            other = files[names[int(random.integers(len(names)))]]
            content[start : start + length] = other[start : start + length]
        yield name, bytes(content) or b"\0"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, data: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", data or zlib.compress(b"")) + chunk(b"IEND", b"")


@cache
def bombs() -> dict[str, bytes]:
    """Small files that would become large, or would be many things."""
    zeros = zlib.compress(bytes(200 << 20), 9)
    huge_rows = zlib.compress(bytes(50_000 * 3 + 1) * 1000, 9)
    pages = b"".join(  # a chain of directories of a hundred thousand pages, all tiny
        struct.pack("<HHHII", 1, 256, 3, 1, 1) + struct.pack("<I", 8 + 18 * (page + 1)) for page in range(100_000)
    )
    frame = encoded(Image.new("P", (1, 1)), "GIF")
    block = frame[frame.index(b"\x2c") : -1]
    return {
        "50000x50000.png": png(50_000, 50_000, data=huge_rows),
        "wide.png": png(2**31 - 1, 1),
        "text.png": png(4, 4, chunk(b"zTXt", b"Comment\0\0" + zeros)),
        "many texts.png": png(4, 4, *[chunk(b"zTXt", b"C%d\0\0" % n + zlib.compress(bytes(1 << 20), 9)) for n in range(80)]),
        "profile.png": png(4, 4, chunk(b"iCCP", b"p\0\0" + zeros)),
        "pages.tif": b"II*\0" + struct.pack("<I", 8) + pages,
        "frames.webp": film_of_webp(65_535),
        "frames.gif": frame[: frame.index(b"\x2c")] + block * 65_535 + b";",
        "exif.jpg": giant_exif(),
        "eps.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99999 99999\n%%EndComments\nshowpage\n",
        "pdf.jpg": b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n%%EOF\n",
        "spider.jpg": struct.pack(">27f", *[1.0, 9999.0, 1.0, 1.0, 1.0, *[0.0] * 7, 9999.0, *[0.0] * 14]) + bytes(4096),
        "svg.jpg": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="99999" height="99999"/>',
        "fpx.jpg": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(4096),
    }


def giant_exif() -> bytes:
    """A JPEG with fifty full segments of EXIF whose directories point at themselves."""
    tiff = b"MM\0*" + struct.pack(">I", 8) + struct.pack(">H", 4000)
    tiff += struct.pack(">HHII", 0x8769, 4, 1, 8) * 4000 + struct.pack(">I", 8)
    segment = b"\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\0\0" + tiff
    plain = encoded(picture((4, 4)), "JPEG")
    return plain[:2] + segment * 50 + plain[2:]


def film_of_webp(frames: int) -> bytes:
    """A WebP of so many frames: one with two, whose last one is repeated."""
    short = io.BytesIO()
    first = Image.new("RGB", (4, 4), "red")
    first.save(short, "WEBP", save_all=True, append_images=[Image.new("RGB", (4, 4), "blue")], lossless=True)
    content = short.getvalue()
    last = content.rindex(b"ANMF")
    body = content[8:last] + content[last:] * (frames - 1)
    return b"RIFF" + struct.pack("<I", len(body)) + body
