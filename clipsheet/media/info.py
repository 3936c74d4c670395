"""What a file is: sizes, times, rates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from clipsheet.errors import MediaError
from clipsheet.media import hdr
from clipsheet.media.fields import FieldOrder

#: What Scorer.times returns to be given every frame that decodes, in order.
EVERY_FRAME: Final = object()


@dataclass(frozen=True, eq=False)
class MediaInfo:
    """What a file is, from one pass over its packets; nothing of it is the header's promise.

    Attributes:
        width, height: pixels as displayed, rotation applied.
        mirrored: whether the stored picture is mirrored left to right for display, before it is turned.
        rotation: degrees counter-clockwise by which the stored picture is turned for display.
        frame_seconds: [N] float64, rising: when each shown frame begins; of a picture, [0.0].
        duration: seconds from the first frame to the end of the last one; 0 for a picture.
        fps: frames per second; 0 for a picture.
        pixel_aspect: width of a pixel over its height.
        size_bytes: of the file.
        start_seconds: of the first shown frame on FFmpeg's clock, whose zero is where the earliest
            stream of the container starts.
        has_times: whether the stream has time stamps; else frames are timed by the nominal rate.
        key_frames: [K] indices of the shown frames from which decoding can begin.
        can_seek: whether it can begin at them at all.
        can_copy: whether packets can be copied into a clip: it is known of each which frame it holds, and when.
        video_streams: how many there are in the file, without cover pictures; 0 for a picture.
        color_transfer, color_primaries: as FFmpeg names them, or "unknown".
        bit_depth: bits of a sample; 8 for most.
        fields: which field of interlaced pictures is shown first, "" for progressive ones; see fields.FieldOrder.
    """

    path: str
    width: int
    height: int
    rotation: int
    codec: str
    frame_seconds: np.ndarray
    duration: float
    fps: float
    pixel_aspect: float
    has_audio: bool
    size_bytes: int
    start_seconds: float = 0.0
    is_image: bool = False
    has_times: bool = True
    key_frames: np.ndarray = field(default_factory=lambda: np.zeros(1, int))
    can_seek: bool = True
    mirrored: bool = False
    can_copy: bool = True
    video_streams: int = 0
    color_transfer: str = hdr.UNKNOWN
    color_primaries: str = hdr.UNKNOWN
    bit_depth: int = 8
    fields: FieldOrder = ""

    @property
    def hdr(self) -> bool:
        """Whether the pictures are of high dynamic range, by PQ or HLG."""
        return self.color_transfer in hdr.HDR

    def at(self, *positions: float) -> list[float]:
        """Seconds of the frames at relative positions from 0 to 1, for example 0.1, 0.5, 0.9."""
        return [p * self.duration for p in positions]

    def every(self, seconds: float, most: int | None = None) -> list[float]:
        """Seconds of the frames 0, `seconds`, 2 `seconds`, ... apart; evenly thinned to `most`.

        Never more than there are frames, however long a header claims the file to be.
        """
        slots = np.floor(self.frame_seconds / seconds + 1e-6)
        first = np.concatenate([[True], slots[1:] != slots[:-1]])
        times = self.frame_seconds[first]
        if most is not None and len(times) > most:
            times = times[np.linspace(0, len(times) - 1, most).round().astype(int)]
        return list(times.tolist())

    def check_size(self, short: int, long: int = 0) -> None:
        """Raise MediaError `too_small` unless the sides have so many pixels.

        Args:
            short, long: pixels that the short and the long side must have at least.
        """
        if min(self.height, self.width) < short or max(self.height, self.width) < long:
            needed = f"{max(short, long)}x{short}"
            raise MediaError("too_small", f"{self.width}x{self.height} pixels; at least {needed} are needed")

    def index_at(self, seconds: float) -> int:
        """Index of the frame that a player shows at `seconds`."""
        half_tick = 5e-4
        after = np.searchsorted(self.frame_seconds, seconds + half_tick, side="right")
        return int(np.clip(after - 1, 0, len(self.frame_seconds) - 1))


def frame_rate(frames: int, duration: float, nominal: float) -> float:
    """The stream's nominal rate where the frames bear it out, else their true average."""
    if not duration:
        return nominal
    measured = frames / duration
    return nominal if nominal and abs(nominal - measured) <= 0.01 * measured else measured
