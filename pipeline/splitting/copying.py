"""PROFILES MAX_SET_NUMBER SPS Clips without a second encoding: copied packets, and copies whose edges are encoded."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import numpy as np

from clipsheet.media import Media, bitstream
from pipeline.splitting.clip_files import ClipFile
from pipeline.splitting.encoding import Coding, encode_alone, failing, shown
from pipeline.splitting.sound_check import Levels


def copy(path: Path, media: Media, first: int, stop: int, sound: bool = False) -> Levels | None:
    """Write the frames [first, stop), which copyable() found, as they are stored.

    Returns:
        The levels of the encoded sound, or None without sound.

    Raises:
        MediaError: MP4 does not hold such a stream, or a packet is missing.
        OSError: the disk is full or refuses.
    """
    with failing(), media.packets(first) as (template, coming):
        file = ClipFile(path, media, first, stop, sound)
        stream = file.add_copy(template)
        packets = itertools.islice(coming, stop - first)
        place = _Placing(media, first, stop, stream)
        for packet, dts in zip(packets, _decoding_times(media, first, stop), strict=False):
            place(packet, int(packet.pts or 0), dts)
            file.mux(packet)
        return file.close()


class _Placing:
    """Sets the times, the duration and the stream of packets copied into a clip of the frames [first, stop)."""

    def __init__(self, media: Media, first: int, stop: int, stream: Any) -> None:
        stamps = media.stamps(first, stop)
        assert stamps is not None
        self._zero, self._stream = int(stamps[0]), stream
        self._shown = dict(zip(stamps.tolist(), shown(media)[first:stop].tolist(), strict=True))

    def __call__(self, packet: av.Packet, pts: int, dts: int) -> None:
        packet.pts, packet.dts = pts - self._zero, dts - self._zero
        packet.duration = self._shown.get(pts, packet.duration)
        packet.stream = self._stream


def _decoding_times(
    media: Media, first: int, stop: int, order: Sequence[int] | np.ndarray | None = None
) -> list[int]:
    """Rising time stamps of decoding for the frames [first, stop), none after that of its showing.

    Args:
        order: of the packets, as indices from `first` on; that in the file by default.
    """
    stamps = media.stamps(first, stop)
    assert stamps is not None
    order = media.stored_order(first, stop) if order is None else np.asarray(order, np.int64)
    delay = int((stamps - stamps[order]).max(initial=0))
    return [int(stamp) - delay for stamp in stamps]


#: Of H.264, by profile_idc: those of 8 bits and 4:2:0 that x264 writes, too.
PROFILES: Final = {66: "baseline", 77: "main", 100: "high"}
MAX_SET_NUMBER: Final = 31  # of a sequence parameter set
SPS, PPS = 7, 8  # kinds of NAL units


class NotCopyable(Exception):
    """Why a clip has to be encoded."""


class NoBeginning(Exception):
    """Decoding cannot start at this key frame."""


def splice(
    path: Path, media: Media, first: int, stop: int, coding: Coding, sound: bool = False
) -> tuple[tuple[int, int], Levels | None]:
    """Write the frames [first, stop): whole groups of pictures are copied, the frames around them encoded.

    Copied and encoded pictures refer to parameter sets of different numbers, both of which stand in the
    file's header (ITU-T H.264 7.4.1.2.1), so that each is decoded by its own wherever a player begins.

    Args:
        coding: by libx264, without filters.

    Returns:
        The range of the copied frames; the levels of the encoded sound, or None without sound.

    Raises:
        NotCopyable: says why.
        MediaError, OSError: as copy().
    """
    info = media.info
    if info.codec != "h264":
        raise NotCopyable(f"its codec is {info.codec}, not h264")
    if coding.filters:
        raise NotCopyable("its picture is to be changed")
    if not (info.has_times and info.can_seek and info.can_copy):
        raise NotCopyable("it cannot be decoded from its middle")
    for key in info.key_frames[(info.key_frames >= first) & (info.key_frames < stop)].tolist():
        end = media.copyable(key, stop)
        if end > key:
            with suppress(NoBeginning):
                return (key, end), _splice_at(path, media, (first, key, end, stop), coding, sound)
    raise NotCopyable("no whole group of pictures is in it")


def _splice_at(
    path: Path, media: Media, edges: tuple[int, int, int, int], coding: Coding, sound: bool
) -> Levels | None:
    """Copy the frames from the second edge to the third, encode those around them.

    Raises:
        NoBeginning: decoding cannot start at the second edge.
    """
    first, key, end, stop = edges
    with failing(), media.packets(key) as (template, coming):
        context = template.codec_context
        header = Header.parsed(bytes(context.extradata or b""))
        beginning = next(coming)
        if not bitstream.begins_closed("h264", bytes(beginning), context.extradata):
            raise NoBeginning
        if context.pix_fmt != "yuv420p" or header.profile not in PROFILES:
            raise NotCopyable(f"its pictures are {context.pix_fmt} of profile {header.profile}")
        own = ("profile", PROFILES[header.profile]), ("x264-params", f"sps-id={header.free_number()}")
        coding = Coding(coding.encoder, coding.options + own)
        before, sets_before = encode_alone(media, first, key, coding)
        behind, sets_behind = encode_alone(media, end, stop, coding)
        if (len(before), len(behind)) != (key - first, stop - end):
            raise NotCopyable("a frame beside those that can be copied does not decode")
        order = np.concatenate(
            [_order(before), media.stored_order(key, end) + key - first, _order(behind) + end - first]
        )
        times = iter(_decoding_times(media, first, stop, order))
        file = ClipFile(path, media, first, stop, sound)
        stream = file.add_copy(template, header.with_sets(sets_before + sets_behind).packed())
        copied = itertools.islice(itertools.chain([beginning], coming), end - key)
        place = _Placing(media, first, stop, stream)
        for start, packets in ((first, before), (key, copied), (end, behind)):
            stamps = media.stamps(start, start + 1)
            assert stamps is not None
            for packet in packets:
                pts = int(packet.pts or 0)
                if start != key:
                    packet, pts = _with_lengths(packet, media.tick), pts + int(stamps[0])
                place(packet, pts, next(times))
                file.mux(packet)
        return file.close()


def _order(packets: Sequence[av.Packet]) -> np.ndarray:
    """[N] int64: which place in time each packet has among all."""
    stamps = np.array([packet.pts for packet in packets], np.int64)
    return np.argsort(np.argsort(stamps))


def _with_lengths(packet: av.Packet, tick: Fraction) -> av.Packet:
    """A packet as MP4 has it: the length of each NAL unit ahead of it, not a start code."""
    data = b"".join(len(unit).to_bytes(4, "big") + unit for unit in _units(bytes(packet)))
    made = av.Packet(data)
    made.time_base, made.duration, made.is_keyframe = tick, packet.duration, packet.is_keyframe
    return made


def _units(stream: bytes) -> list[bytes]:
    """The NAL units between start codes (ITU-T H.264 annex B)."""
    return [unit for unit in re.split(rb"\x00*\x00\x00\x01", stream) if unit]


@dataclass(frozen=True)
class Header:
    """The parameter sets of an H.264 stream in MP4 (ISO/IEC 14496-15, 5.3.3.1), by kind."""

    begin: bytes  # profile, compatibility, level
    sequence: tuple[bytes, ...]
    picture: tuple[bytes, ...]

    @classmethod
    def parsed(cls, data: bytes) -> Header:
        """From the bytes in the file.

        Raises:
            NotCopyable: it is another form, or cut off.
        """
        if len(data) < 7 or data[0] != 1 or data[4] & 3 != 3:
            raise NotCopyable("its container keeps H.264 in another form than MP4 and Matroska do")
        found: list[tuple[bytes, ...]] = []
        at = 5
        for mask in (31, 255):
            sets = []
            for _ in range(data[at] & mask if at < len(data) else 0):
                length = int.from_bytes(data[at + 1 : at + 3], "big")
                sets.append(data[at + 3 : at + 3 + length])
                at += 2 + length
            found.append(tuple(sets))
            at += 1
        if not all(found) or not all(part for sets in found for part in sets):
            raise NotCopyable("its header is damaged")
        return cls(data[1:4], *found)

    @property
    def profile(self) -> int:
        """profile_idc."""
        return self.begin[0]

    def free_number(self) -> int:
        """One that no parameter set has.

        Raises:
            NotCopyable: there is none.
        """
        used = {_number(unit, 4) for unit in self.sequence} | {_number(unit, 1) for unit in self.picture}
        free = next((n for n in range(1, MAX_SET_NUMBER + 1) if n not in used), None)
        if free is None:
            raise NotCopyable("its header has all parameter sets that there can be")
        return free

    def with_sets(self, stream: bytes) -> Header:
        """With those of a stream with start codes, each once."""
        units = dict.fromkeys(_units(stream))
        kinds = [[unit for unit in units if unit[0] & 31 == kind] for kind in (SPS, PPS)]
        return Header(self.begin, (*self.sequence, *kinds[0]), (*self.picture, *kinds[1]))

    def packed(self) -> bytes:
        """As the bytes in a file."""
        parts = [b"\x01", self.begin, b"\xff", bytes([0xE0 | len(self.sequence)])]
        parts += [len(unit).to_bytes(2, "big") + unit for unit in self.sequence]
        parts += [bytes([len(self.picture)])]
        parts += [len(unit).to_bytes(2, "big") + unit for unit in self.picture]
        if self.profile not in (66, 77, 88):
            parts += [b"\xfd\xf8\xf8\x00"]  # 4:2:0, 8 bits of luma and chroma, no extension
        return b"".join(parts)


def _number(unit: bytes, skip: int) -> int:
    """The number of a parameter set, after so many bytes; -1 where it is damaged."""
    return next(bitstream.numbers(unit[skip : skip + 8]), -1)
