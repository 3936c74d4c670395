"""Pictures in HEIF as phones write them: a grid of HEVC tiles (ISO/IEC 23008-12), built box by box."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import av
import numpy as np

from tests import footage

GRID = 1  # number of the item that is shown; its tiles follow
LARGE_FIELDS = 1  # flags of the payload of a grid


def box(kind: bytes, *parts: bytes) -> bytes:
    """A box of ISO/IEC 14496-12."""
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def full_box(kind: bytes, version: int, flags: int, *parts: bytes) -> bytes:
    """A box with a version and flags."""
    return box(kind, struct.pack(">I", version << 24 | flags), *parts)


def write_grid(
    path: Path,
    image: np.ndarray,
    *,
    tile: int = 512,
    pixels: str = "yuv420p",
    properties: Sequence[bytes] = (),
    claimed: tuple[int, int] | None = None,
    exif: bytes = b"",
) -> Path:
    """Write a picture as an iPhone does: square HEVC tiles, of which those at the edges are cropped.

    Args:
        image: [H, W, 3] uint8 RGB.
        properties: boxes like `irot`, applied to the whole picture in their order.
        claimed: width and height that the file says the picture has, instead of its own.
        exif: TIFF structure of an Exif item.
    """
    height, width = image.shape[:2]
    rows, columns = -(-height // tile), -(-width // tile)
    padded = np.pad(image, ((0, rows * tile - height), (0, columns * tile - width), (0, 0)), mode="edge")
    tiles = [
        padded[tile * row :, tile * column :][:tile, :tile]
        for row in range(rows)
        for column in range(columns)
    ]
    header, coded = _hevc(path.with_suffix(".tiles.mp4"), tiles, pixels)
    width, height = claimed or (width, height)
    grid = struct.pack(">4BII", 0, LARGE_FIELDS, rows - 1, columns - 1, width, height)
    numbers = list(range(GRID + 1, GRID + 1 + len(coded)))
    kinds = [b"grid", *[b"hvc1"] * len(coded)]
    payloads = [grid, *coded]
    references = [box(b"dimg", struct.pack(f">HH{len(numbers)}H", GRID, len(numbers), *numbers))]
    if exif:
        kinds.append(b"Exif")
        payloads.append(struct.pack(">I", 0) + exif)
        references.append(box(b"cdsc", struct.pack(">HHH", len(payloads), 1, GRID)))
    shared = [
        box(b"hvcC", header),
        full_box(b"ispe", 0, 0, struct.pack(">II", tile, tile)),
        full_box(b"ispe", 0, 0, struct.pack(">II", width, height)),
    ]
    own = [3, *(0x80 | place for place in range(4, 4 + len(properties)))]  # 0x80: essential
    linked = [(GRID, own), *((number, [0x81, 2]) for number in numbers)]
    links = b"".join(struct.pack(f">HB{len(at)}B", item, len(at), *at) for item, at in linked)

    boxes = box(b"ipco", *shared, *properties), full_box(b"ipma", 0, 0, struct.pack(">I", len(linked)), links)
    meta = partial(_meta, kinds, payloads, references, boxes)
    kind = box(b"ftyp", b"heic", struct.pack(">I", 0), b"mif1", b"heic")
    begin = len(kind) + len(meta(0)) + 8
    path.write_bytes(kind + meta(begin) + box(b"mdat", *payloads))
    return path


def _meta(
    kinds: Sequence[bytes],
    payloads: Sequence[bytes],
    references: Sequence[bytes],
    boxes: Sequence[bytes],
    offset: int,
) -> bytes:
    """The box `meta`: which items there are, and where, if their payloads begin at an offset in the file."""
    places, at = [], offset
    for number, payload in enumerate(payloads, GRID):
        places.append(struct.pack(">HHHHII", number, 0, 0, 1, at, len(payload)))
        at += len(payload)
    entries = [
        full_box(b"infe", 2, 0, struct.pack(">HH4sx", number, 0, kind))
        for number, kind in enumerate(kinds, GRID)
    ]
    return full_box(
        b"meta", 0, 0,
        full_box(b"hdlr", 0, 0, struct.pack(">I4s12xx", 0, b"pict")),
        full_box(b"pitm", 0, 0, struct.pack(">H", GRID)),
        full_box(b"iloc", 1, 0, struct.pack(">HH", 0x4400, len(payloads)), *places),
        full_box(b"iinf", 0, 0, struct.pack(">H", len(entries)), *entries),
        full_box(b"iref", 0, 0, *references),
        box(b"iprp", *boxes),
    )  # fmt: skip


def turned(quarters: int) -> bytes:
    """A property that turns the picture counter-clockwise by so many quarters."""
    return box(b"irot", bytes([quarters]))


def mirrored(axis: int) -> bytes:
    """A property that exchanges top and bottom (0) or left and right (1)."""
    return box(b"imir", bytes([axis]))


def _hevc(path: Path, pictures: Sequence[np.ndarray], pixels: str) -> tuple[bytes, list[bytes]]:
    """The decoder's configuration, and each picture as a sample of its own."""
    coder = ("-c:v", "libx265", "-x265-params", "keyint=1:crf=12:log-level=none", "-pix_fmt", pixels)
    footage.encode(path, pictures, "-tag:v", "hvc1", codec=coder)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        samples = [bytes(packet) for packet in container.demux(stream) if packet.size]
        header = bytes(stream.codec_context.extradata or b"")
    path.unlink()
    return header, samples
