"""Files of clips: packets and sound on one clock, the last frame with its own duration."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from av.container import OutputContainer

from clipsheet.errors import MediaError
from clipsheet.media import Frame, Media
from clipsheet.media.sound import Sound
from pipeline.splitting.encoding import Coding, FrameEncoder, failing
from pipeline.splitting.sound_check import Levels

MAX_CLIP_BYTES: Final = 2_000_000_000
CHECK_SIZE_EVERY: Final = 250  # packets
#: Rates and layouts with an index in the AAC header (ISO/IEC 14496-3, tables 1.18 and 1.19), which players support.
AAC_RATES: Final = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
AAC_LAYOUTS: Final = ("mono", "stereo", "3.0", "4.0", "5.0", "5.1", "7.1")
LEAST_TIMESCALE: Final = 10_000  # FFmpeg doubles the time scale of a video track until it is at least this


class ClipFile:
    """An MP4 file that is being written, with the sound of the clip's time if it is wanted.

    Args:
        media: where the clip is from.
        first, stop: its frames.
        sound: take the sound of that time along, as AAC.
    """

    def __init__(self, path: Path, media: Media, first: int, stop: int, sound: bool) -> None:
        self._path, self._media, self._first, self._stop = path, media, first, stop
        options = {"movflags": "+faststart"}
        self._container: OutputContainer = av.open(
            f"file:{path.absolute()}", "w", format="mp4", container_options=options
        )
        self._open = ExitStack()
        self._sound: SoundTrack | None = None
        self._wants_sound = sound and media.info.has_audio
        self._packets = 0
        self._held: av.Packet | None = None  # may be the last packet; close() sets the duration of that one
        self._begin = self._end = 0  # first decoding time, last presentation time

    def add_stream(self, name: str) -> Any:
        """A stream to be encoded."""
        stream = self._container.add_stream(name)
        self._add_sound()
        return stream

    def add_copy(self, template: Any, extradata: bytes = b"") -> Any:
        """A stream for packets that are encoded already."""
        try:
            stream = self._container.add_stream_from_template(template, opaque=True)
        except ValueError as error:  # MP4 does not hold this codec
            raise MediaError("partial", str(error)) from error
        if extradata:
            stream.codec_context.extradata = extradata
        self._add_sound()
        return stream

    def mux(self, packet: av.Packet) -> None:
        """Write a packet of the video stream, and the sound up to its time."""
        assert packet.pts is not None and packet.dts is not None
        if not self._packets:
            self._begin = packet.dts
            self._count_time_in(packet.time_base)
        self._end = max(self._end, packet.pts + (packet.duration or 0))
        self._write_held()
        self._held = packet
        self._packets += 1
        if self._packets % CHECK_SIZE_EVERY == 0 and self._path.stat().st_size > MAX_CLIP_BYTES:
            raise MediaError("too_large", f"more than {MAX_CLIP_BYTES:,} bytes in one clip")

    def close(self) -> Levels | None:
        """Finish the file. Returns the levels of the encoded sound, or None without sound."""
        if self._held is not None and self._held.dts is not None:
            # FFmpeg's demuxer limits the duration to the sum of all sample durations (stts), so they must add up.
            decoded = self._held.dts - self._begin
            self._held.duration = max(self._held.duration or 0, self._end - decoded)
        self._write_held()
        if self._sound is not None:
            for packet in self._sound.until(math.inf):
                self._container.mux_one(packet)
        self._container.close()
        self._open.close()
        return None if self._sound is None else self._sound.levels

    def _write_held(self) -> None:
        packet, self._held = self._held, None
        if packet is None or packet.dts is None:
            return
        if self._sound is not None:
            self._container.mux(list(self._sound.until(float(packet.dts * packet.time_base))))
        self._container.mux_one(packet)

    def _count_time_in(self, tick: Fraction) -> None:
        """Use the time scale of the video track for the movie too. With the default of 1000, FFmpeg rounds the
        durations of tracks and edit lists up to milliseconds."""
        scale = tick.denominator
        while scale < LEAST_TIMESCALE:
            scale *= 2
        self._container.container_options["movie_timescale"] = str(scale)

    def _add_sound(self) -> None:
        if not self._wants_sound:
            return
        info = self._media.info
        seconds = np.append(info.frame_seconds, info.duration)
        start, end = float(seconds[self._first]), float(seconds[self._stop])
        sound = self._open.enter_context(self._media.sound(start, end, AAC_RATES, AAC_LAYOUTS))
        if sound is not None:
            stream = self._container.add_stream("aac", rate=sound.rate)
            stream.codec_context.layout = sound.layout
            self._sound = SoundTrack(sound, stream)


class SoundTrack:
    """Encodes the sound of a clip on demand.

    Attributes:
        levels: levels of the encoded sound.
    """

    def __init__(self, sound: Sound, stream: av.AudioStream) -> None:
        self._pieces, self._rate, self._layout = sound.pieces(), sound.rate, sound.layout
        self._stream = stream
        self._ready: deque[av.Packet] = deque()
        self._over = False
        self.levels = Levels(sound.rate)

    def until(self, seconds: float) -> Iterator[av.Packet]:
        """Yield the next packets that begin at or before `seconds`."""
        while True:
            while self._ready:
                if float((self._ready[0].pts or 0) * self._ready[0].time_base) > seconds:
                    return
                yield self._ready.popleft()
            if self._over:
                return
            piece = next(self._pieces, None)
            self._over = piece is None
            self._ready += self._stream.encode(None if piece is None else self._frame(piece))

    def _frame(self, piece: np.ndarray) -> av.AudioFrame:
        piece = np.clip(piece, -1, 1)  # FFmpeg's AAC encoder distorts what decoders overshoot
        packed = np.ascontiguousarray(piece.T).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=self._layout)
        frame.sample_rate, frame.time_base = self._rate, Fraction(1, self._rate)
        frame.pts = self.levels.samples
        self.levels.add(piece)
        return frame


class EncodedClip:
    """A clip whose frames are all encoded."""

    def __init__(
        self, path: Path, media: Media, first: int, stop: int, coding: Coding, sound: bool = False
    ) -> None:
        # Nothing here refers to itself: an encoder has 100 MB, which must be free as soon as it is done.
        file = self._file = ClipFile(path, media, first, stop, sound)
        self._encoder = FrameEncoder(media, first, coding, lambda: file.add_stream(coding.encoder))

    def add(self, frame: Frame) -> None:
        """The next frame.

        Raises:
            MediaError: it cannot be encoded.
            OSError: the disk is full or refuses.
        """
        with failing():
            for packet in self._encoder.encode(frame):
                self._file.mux(packet)

    def close(self) -> Levels | None:
        """Finish the clip. Returns the levels of the encoded sound, or None without sound. Raises as add()."""
        with failing():
            for packet in self._encoder.finish():
                self._file.mux(packet)
            return self._file.close()
