"""What a packet's own bits say where the container's word is not enough: hidden, packed and true key frames."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

import av

#: Kinds of NAL units that begin a closed group of pictures (ITU-T H.264 and H.265, tables 7-1: IDR).
IDR: Final = {"h264": (5,), "hevc": (19, 20)}
#: Kinds of those from which decoding can begin (H.265, 3.80: IRAP; in H.264 others than IDR need further messages).
STARTS: Final = {"h264": (5,), "hevc": tuple(range(16, 22))}
#: Kinds of NAL units that hold a picture.
PICTURES: Final = {"h264": range(1, 6), "hevc": range(32)}
VOP_START: Final = b"\x00\x00\x01\xb6"  # a picture of MPEG-4 part 2 (ISO/IEC 14496-2, 6.3.5)
PICTURE_START: Final = b"\x00\x00\x01\x00"  # a picture of MPEG-1 or MPEG-2 (ISO/IEC 13818-2, 6.2.3)
#: A VOP of at most that many bytes says only that nothing changes (FFmpeg, mpeg4_unpack_bframes_bsf.c).
MAX_NVOP_BYTES: Final = 19
#: Codecs whose packets tell for certain whether decoding can begin at them.
DECISIVE: Final = frozenset("hevc vp8 vp9 mpeg4 mpeg1video mpeg2video".split())
INTER_SLICES: Final = (0, 1, 3)  # P, B and SP (ITU-T H.264, table 7-6)
VP8_INTER, VP8_SHOWN = 0x01, 0x10  # bits of the first byte (RFC 6386, 9.1)
VP9_PROFILE_3, VP9_EXISTING, VP9_INTER = 0x30, 0x08, 0x04  # likewise (VP9 bitstream specification, 6.2)


def hidden_vp8(packet: av.Packet) -> bool:
    """Whether a packet of VP8 holds a frame that others refer to and that is not shown itself."""
    return not memoryview(packet)[0] & VP8_SHOWN


class Vops:
    """The pictures of MPEG-4 part 2 in packets, which are added in the order of the file.

    DivX and Xvid packed a reference frame and the B-frame after it into one packet of an AVI file, and put a
    placeholder of a few bytes where the B-frame would have been. A placeholder elsewhere shows nothing new.

    Attributes:
        packed: some packet holds two pictures.
    """

    def __init__(self) -> None:
        self.packed = False
        self._waiting = False  # a B-frame that was packed and has had no placeholder yet

    def hides(self, packet: av.Packet) -> bool:
        """Add a packet; whether it stands for no picture."""
        if bytes(packet).count(VOP_START) > 1:
            self.packed = self._waiting = True
            return False
        if packet.size > MAX_NVOP_BYTES:
            return False
        hidden = not self._waiting
        self._waiting = False
        return hidden


def holds_key(codec: str, packet: bytes, extradata: bytes | None) -> bool:
    """Whether the bits of a packet say for certain that decoding can begin at it.

    False says nothing: of many codecs, and of gradual and open beginnings, only the decoder knows.

    Args:
        extradata: of the codec: says how NAL units are told apart.
    """
    if codec == "mpeg4":
        at = packet.find(VOP_START)
        return 0 <= at < len(packet) - 4 and packet[at + 4] >> 6 == 0
    if codec in ("mpeg1video", "mpeg2video"):
        at = packet.find(PICTURE_START)
        return 0 <= at < len(packet) - 5 and packet[at + 5] >> 3 & 7 == 1
    if codec in STARTS:
        return _picture_kind(codec, packet, extradata) in STARTS[codec]
    return begins_closed(codec, packet, extradata)


def holds_no_key(codec: str, packet: bytes, extradata: bytes | None) -> bool:
    """Whether the bits of a packet say for certain that decoding cannot begin at it.

    In H.264 that is a picture whose first slice refers to others, also where lines are refreshed gradually.
    """
    if codec == "h264":
        return _slice_type(packet, extradata) in INTER_SLICES
    if codec == "vp9" and packet[0] & VP9_PROFILE_3 == VP9_PROFILE_3:  # its header has one bit more
        return False
    return codec in DECISIVE and not holds_key(codec, packet, extradata)


def _slice_type(packet: bytes, extradata: bytes | None) -> int | None:
    """Of the first slice of a picture of H.264 that is no IDR picture (ITU-T H.264, 7.3.3 and 9.1)."""
    for unit in _units(packet, _length_bytes("h264", extradata)):
        if packet[unit] & 31 in PICTURES["h264"]:
            if packet[unit] & 31 != 1:
                return None
            fields = list(islice(numbers(packet[unit + 1 : unit + 9]), 2))  # first_mb_in_slice, slice_type
            return fields[1] % 5 if len(fields) == 2 else None
    return None


def numbers(payload: bytes) -> Iterator[int]:
    """The unsigned Exp-Golomb numbers at the beginning of a NAL unit's payload (ITU-T H.264, 7.3.1 and 9.1)."""
    payload = payload.replace(b"\x00\x00\x03", b"\x00\x00")
    bits = f"{int.from_bytes(payload, 'big'):0{8 * len(payload)}b}" if payload else ""
    while (zeros := bits.find("1")) >= 0 and len(bits) > 2 * zeros:
        yield int(bits[zeros : 2 * zeros + 1], 2) - 1
        bits = bits[2 * zeros + 1 :]


def begins_closed(codec: str, packet: bytes, extradata: bytes | None) -> bool:
    """Whether the bits of a packet say for certain that no frame behind it refers to one ahead of it."""
    if codec == "vp8":
        return not packet[0] & VP8_INTER
    if codec == "vp9":
        return packet[0] & VP9_PROFILE_3 != VP9_PROFILE_3 and not packet[0] & (VP9_EXISTING | VP9_INTER)
    return codec in IDR and _picture_kind(codec, packet, extradata) in IDR[codec]


def _picture_kind(codec: str, packet: bytes, extradata: bytes | None) -> int | None:
    """The kind of the first NAL unit of a packet that holds a picture."""
    kinds = _kinds(codec, packet, _length_bytes(codec, extradata))
    return next((kind for kind in kinds if kind in PICTURES[codec]), None)


def _length_bytes(codec: str, extradata: bytes | None) -> int:
    """How many bytes say the length of each NAL unit; 0 where start codes separate them.

    By ISO/IEC 14496-15: 5.3.3.1 for H.264, 8.3.3.1 for HEVC.
    """
    place = {"h264": 4, "hevc": 21}[codec]
    if not extradata or len(extradata) <= place or extradata[0] != 1:
        return 0
    return (extradata[place] & 3) + 1


def _kinds(codec: str, packet: bytes, length: int) -> Iterator[int]:
    """The kinds of the NAL units of a packet."""
    for unit in _units(packet, length):
        yield packet[unit] & 31 if codec == "h264" else packet[unit] >> 1 & 63


def _units(packet: bytes, length: int) -> Iterator[int]:
    """Where each NAL unit begins."""
    if length:
        at = 0
        while at + length < len(packet):
            yield at + length
            at += length + int.from_bytes(packet[at : at + length], "big")
        return
    at = packet.find(b"\x00\x00\x01")
    while 0 <= at < len(packet) - 3:
        yield at + 3
        at = packet.find(b"\x00\x00\x01", at + 3)
