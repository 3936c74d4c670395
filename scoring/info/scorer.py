"""What a file is: size, frames, rate, length, codec; counted by decoding it, not read off its header."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from clipsheet.media import EVERY_FRAME, MediaInfo
from clipsheet.scorer import Column, Frames, Row, Scorer, at_least, at_most


@dataclass(frozen=True)
class Info(Scorer):
    """Facts of the container and the decoded stream. A picture has one frame and no rate or length."""

    name: ClassVar[str] = "info"
    version: ClassVar[int] = 2

    @property
    def columns(self) -> tuple[Column, ...]:
        return (
            Column(
                "num_frames",
                "int",
                "",
                "frames that decode",
                bounds=at_least("fmin", 0, whole=True) + at_most("fmax", 0, whole=True),
            ),
            Column("height", "int", "pixels", "as displayed, rotation applied"),
            Column("width", "int", "pixels", "as displayed, rotation applied"),
            Column("aspect_ratio", "float", "", "height / width"),
            Column(
                "fps",
                "float",
                "1/s",
                "frames per second",
                bounds=at_most("fpsmax", 0, spares_pictures=True),
            ),
            Column("resolution", "int", "pixels", "height x width", bounds=at_most("hwmax", 0, whole=True)),
            Column("duration", "float", "s", "from the first frame to the end of the last"),
            Column("codec", "text", "", "FFmpeg's name of the video codec or picture format"),
            Column("bit_rate", "int", "bit/s", "of the whole file"),
            Column("has_audio", "bool", "", "whether there is a sound stream"),
            Column("video_streams", "int", "", "video streams in the file, of which the best is read"),
            Column("color_transfer", "text", "", "FFmpeg's name of the transfer function, or unknown"),
            Column("color_primaries", "text", "", "FFmpeg's name of the primaries, or unknown"),
            Column("bit_depth", "int", "bits", "of a sample"),
            Column("hdr", "bool", "", "whether it is of high dynamic range (PQ, HLG)"),
            Column(
                "interlaced", "bool", "", "whether pictures are woven of two fields, by flags and pictures"
            ),
        )

    def times(self, info: MediaInfo) -> object:
        return EVERY_FRAME

    def prepare(self, row: Row, frames: Frames) -> tuple[Any, ...]:
        count = sum(1 for _ in frames)
        info = frames.info
        video = not info.is_image
        return (
            count,
            info.height,
            info.width,
            round(info.height / info.width, 6),
            round(info.fps, 6) if video else None,
            info.height * info.width,
            round(info.duration, 6) if video else None,
            info.codec,
            round(8 * info.size_bytes / info.duration) if info.duration else None,
            info.has_audio,
            info.video_streams,
            info.color_transfer,
            info.color_primaries,
            info.bit_depth,
            info.hdr,
            bool(info.fields),
        )
