"""Interlaced video: whether pictures are woven of two fields, in which order, and whole pictures made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, Final, Literal

import av
import numpy as np

from clipsheet.errors import MediaError

#: Which of the two fields is shown first; "auto": as each frame is flagged; "": the pictures are progressive.
FieldOrder = Literal["", "tff", "bff", "auto"]

#: Lines of the pictures that cameras and broadcasters interlace: 525 and 625 line systems, with and without the
#: lines of the blanking interval, and 1080 lines. Of others, fields have been lost in scaling.
INTERLACED_HEIGHTS: Final = frozenset([480, 486, 512, 576, 608, 1080, 1088])
#: What AVCodecContext.field_order says of interlaced streams (AV_FIELD_TT, _BB, _TB, _BT).
WOVEN_FLAGS: Final = (2, 3, 4, 5)
#: Luma levels by which a line must differ from both its neighbours (FFmpeg's fieldmatch: cthresh 9).
COMB_LEVELS: Final = 9
SAMPLED_COLUMNS: Final = 256  # of a picture; lines are looked at all
#: A picture of which less combs than this share has nothing that tells.
LEAST_COMBING: Final = 0.005
#: Moving edges of woven pictures comb over many lines; texture seldom does over so many.
RUN_LINES: Final = 5
#: Share of the pixels in such runs above which a picture may be woven (progressive ones: 0.0007 at most on real
#: footage, interlaced ones 0.007 and more).
SUSPICIOUS_SHARE: Final = 0.002
#: Two shares of combing that differ by less are alike.
ALIKE: Final = 0.15
#: Of the pairs that tell, this share must be woven where no flag says so. Film in 3:2 pulldown has two fifths.
WOVEN_SHARE: Final = 0.75
#: Pixels of a picture that bwdif takes: four lines and columns of a plane, of which chroma may have a quarter.
LEAST_SIDE: Final = 16
TICK: Final = Fraction(1, 25)  # any: pictures are numbered
PAIRS: Final = 8  # of consecutive pictures that are looked at


def sampled_luma(picture: av.VideoFrame) -> np.ndarray:
    """[H, <= 512] int16 luma of some columns and all lines of a picture as stored."""
    grey = picture.reformat(format="gray", threads=1).to_ndarray()
    return grey[:, :: max(1, picture.width // SAMPLED_COLUMNS)].astype(np.int16)


def _combed(luma: np.ndarray) -> np.ndarray:
    """[H - 2, W] bool: pixels that are brighter, or darker, than those above and below."""
    above, below = luma[:-2] - luma[1:-1], luma[2:] - luma[1:-1]
    return (np.minimum(above, below) > COMB_LEVELS) | (np.maximum(above, below) < -COMB_LEVELS)


def combing(luma: np.ndarray) -> float:
    """Share of the pixels that are brighter, or darker, than those above and below."""
    return float(_combed(luma).mean()) if len(luma) > 2 else 0.0


def says_nothing(picture: av.VideoFrame) -> bool:
    """Whether a picture has as many lines as interlaced ones have, but is too smooth to tell anything."""
    return picture.height in INTERLACED_HEIGHTS and combing(sampled_luma(picture)[::2]) < LEAST_COMBING


def is_suspicious(picture: av.VideoFrame) -> bool:
    """Whether a picture may be woven of two fields, which only the next one can tell for certain."""
    if picture.height not in INTERLACED_HEIGHTS:
        return False
    combed = _combed(sampled_luma(picture))
    run = combed[: 1 - RUN_LINES].copy()
    for line in range(1, RUN_LINES):
        run &= combed[line : len(combed) + 1 - RUN_LINES + line]
    return float(run.mean()) > SUSPICIOUS_SHARE


def woven(first: np.ndarray, second: np.ndarray) -> Literal["", "tff", "bff"] | None:
    """What two consecutive pictures say: woven of fields with the top or the bottom one first, progressive, or nothing.

    In interlaced pictures that move, a field is as far in time from the other of its own picture as from the
    nearer one of the next picture, and nearer than to the farther one; weaving with each shows by how much it
    combs. In progressive pictures both fields of one picture belong together (after the idea of FFmpeg's idet).

    Args:
        first, second: [H, W] int16 luma.
    """
    itself = combing(first)
    with_top, with_bottom = (_combing_with(first, second, parity) for parity in (0, 1))
    near, far = sorted((with_top, with_bottom))
    if far < LEAST_COMBING:
        return None
    if far - near < ALIKE * far:
        return "" if itself < (1 - ALIKE) * near else None
    if abs(itself - near) < ALIKE * near:
        return "tff" if with_top < with_bottom else "bff"
    return None


def _combing_with(first: np.ndarray, second: np.ndarray, parity: int) -> float:
    """Combing of the first picture with one of its fields taken from the second."""
    mixed = first.copy()
    mixed[parity::2] = second[parity::2]
    return combing(mixed)


def field_order(pairs: Iterable[tuple[np.ndarray, np.ndarray]], flagged: bool) -> FieldOrder:
    """The order of fields of a video by some pairs of its pictures; "" where it is progressive.

    Args:
        flagged: the stream says that it is interlaced. Film in such a stream is still progressive.
    """
    votes = Counter(woven(first, second) for first, second in pairs if first.shape == second.shape)
    top, bottom, progressive = votes["tff"], votes["bff"], votes[""]
    told = top + bottom
    if flagged and told >= progressive:
        return "auto" if top == bottom else "tff" if top > bottom else "bff"
    if told > WOVEN_SHARE * (told + progressive):
        return "tff" if top > bottom else "bff"
    return ""


def deinterlaced(
    pictures: Iterable[tuple[av.VideoFrame, int]], wanted: np.ndarray | None, order: FieldOrder
) -> Iterator[tuple[av.VideoFrame, int]]:
    """Whole pictures in place of woven ones, by FFmpeg's bwdif: one for each, at its own time.

    A picture depends on the one before it and the one after it in the video and on nothing else, so that it
    is the same whichever others are wanted.

    Args:
        pictures: in order of time with their indices; the neighbours of all that are wanted are among them.
        wanted: [N] indices, rising; None for all.
        order: of the fields.

    Raises:
        MediaError: decode_error, a picture that the filter does not take.
    """
    asked = None if wanted is None else set(wanted.tolist())
    run: _Run | None = None
    for picture, index in pictures:
        if min(picture.width, picture.height) < LEAST_SIDE:
            if asked is None or index in asked:
                yield picture, index
            continue
        if run is not None and not run.goes_on(picture, index):
            yield from run.finish(asked)
            run = None
        if run is None:
            run = _Run(picture, order)
        yield from run.add(picture, index, asked)
    if run is not None:
        yield from run.finish(asked)


@contextmanager
def _failing() -> Iterator[None]:
    """What the filter says of a picture becomes a MediaError; that it wants more, or has ended, is no error."""
    try:
        yield
    except (av.error.BlockingIOError, av.error.EOFError):
        raise
    except av.error.MemoryError as error:
        raise MediaError("out_of_memory", str(error)) from error
    except av.error.FFmpegError as error:
        raise MediaError("decode_error", f"deinterlacing: {error}") from error


class _Run:
    """Consecutive pictures of one size and format."""

    def __init__(self, picture: av.VideoFrame, order: FieldOrder) -> None:
        self._like = picture.width, picture.height, picture.format.name
        self._indices: list[int] = []
        self._graph: Any = av.filter.Graph()
        self._graph.threads = 1
        source = (
            f"video_size={picture.width}x{picture.height}:pix_fmt={picture.format.name}:time_base={TICK}"
            f":colorspace={int(picture.colorspace)}:range={int(picture.color_range)}"
        )
        nodes = [
            self._graph.add("buffer", source),
            self._graph.add("bwdif", f"mode=send_frame:parity={order}:deint=all"),
        ]
        with _failing():
            self._graph.link_nodes(*nodes, self._graph.add("buffersink")).configure()
        self._last = -1

    def goes_on(self, picture: av.VideoFrame, index: int) -> bool:
        """Whether a picture follows the last one."""
        return index == self._last + 1 and (picture.width, picture.height, picture.format.name) == self._like

    def add(
        self, picture: av.VideoFrame, index: int, asked: set[int] | None
    ) -> Iterator[tuple[av.VideoFrame, int]]:
        picture.pts, picture.time_base = index, TICK
        self._last = index
        self._indices.append(index)
        with _failing():
            self._graph.vpush(picture)
        yield from self._made(asked)

    def finish(self, asked: set[int] | None) -> Iterator[tuple[av.VideoFrame, int]]:
        with _failing():
            self._graph.vpush(None)
        yield from self._made(asked)

    def _made(self, asked: set[int] | None) -> Iterator[tuple[av.VideoFrame, int]]:
        while True:
            try:
                with _failing():
                    picture = self._graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            index = self._indices.pop(0)
            if asked is None or index in asked:
                yield picture, index
