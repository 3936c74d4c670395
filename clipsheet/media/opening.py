"""Opening a video: its packets, checked by decoding a few frames, and what it is."""

from __future__ import annotations

from typing import Final

import av
import numpy as np

from clipsheet.errors import MediaError
from clipsheet.media import bitstream, fields, hdr
from clipsheet.media.container import demuxed, video_stream, video_streams
from clipsheet.media.decoder import Decoder
from clipsheet.media.fields import WOVEN_FLAGS, FieldOrder
from clipsheet.media.frame import orientation
from clipsheet.media.info import MediaInfo, frame_rate
from clipsheet.media.packets import CHECKED_PACKETS, Packets

#: Frames that are decoded at most to come from a key frame to one of a pair that is looked at.
PAIR_REACH: Final = 32


def open_video(decoder: Decoder, path: str, size_bytes: int) -> tuple[MediaInfo, Packets]:
    """What a file is, and its packets.

    Args:
        path: as in the table.

    Raises:
        MediaError: the file cannot be read as one video stream.
    """
    with decoder.opened() as container:
        stream = video_stream(container)
        context = stream.codec_context
        codec = context.codec.canonical_name
        nominal = float(stream.average_rate or stream.guessed_rate or 0)
        aspect = float(stream.sample_aspect_ratio or 1) or 1.0
        has_audio = bool(container.streams.audio)
        flagged = context.field_order in WOVEN_FLAGS
        container_start = (container.start_time or 0) / av.time_base
        packets = Packets(container, stream, nominal)
        alone = packets.alone(stream)
        streams = len(video_streams(container))
    packets, picture = _checked(decoder, packets, alone)
    if picture is None:
        raise MediaError("decode_error", "no frame decodes")
    looked_at = [picture, *(other for other in alone.values() if other is not None)]
    order = _field_order(decoder, packets, looked_at, flagged or picture.interlaced_frame)
    turn, mirrored = orientation(picture)
    height, width = picture.height, picture.width
    if turn % 180:
        height, width = width, height
    info = MediaInfo(
        path, width, height, rotation=turn, mirrored=mirrored, codec=codec, frame_seconds=packets.seconds,
        duration=packets.duration, fps=frame_rate(packets.count, packets.duration, nominal),
        pixel_aspect=aspect, has_audio=has_audio, size_bytes=size_bytes,
        start_seconds=packets.start_seconds - container_start,
        has_times=packets.stamps is not None, key_frames=packets.key_frames,
        can_seek=packets.can_seek, can_copy=packets.places is not None, video_streams=streams, fields=order,
        color_transfer=hdr.TRANSFERS.get(picture.color_trc, hdr.UNKNOWN),
        color_primaries=hdr.PRIMARIES.get(picture.color_primaries, hdr.UNKNOWN),
        bit_depth=picture.format.components[0].bits,
    )  # fmt: skip
    return info, packets


def _checked(
    decoder: Decoder, packets: Packets, alone: dict[int, av.VideoFrame | None]
) -> tuple[Packets, av.VideoFrame | None]:
    """The packets, read another way where decoding shows that the container's word does not hold, and the
    first picture."""
    if packets.has_placeholders:
        packets = _without_placeholders(decoder, packets)
    second, only_keys = packets.second_key, packets.all_keys
    if packets.begins_late and 0 in alone:
        packets = _regrouped(decoder, packets.from_the_first())
    elif second is not None and not _is_true_key(decoder, packets, second, alone):
        packets, only_keys = _regrouped(decoder, packets), False
    if packets.doubtful and not only_keys and not _in_order(decoder, packets):
        packets = _regrouped(decoder, packets.counted())
    first = alone.get(packets.first_number)
    return packets, first or next((picture for picture, _ in decoder.frames(packets, None)), None)


def _is_true_key(
    decoder: Decoder, packets: Packets, number: int, alone: dict[int, av.VideoFrame | None]
) -> bool:
    """Whether decoding can begin at a packet that is flagged as a key frame.

    Args:
        alone: as Packets.alone() gives it.
    """
    if number not in alone:
        return decoder.can_begin_at(packets, packets.index_at(number))
    picture = alone[number]
    if picture is None or picture.pict_type or number >= CHECKED_PACKETS:
        return True
    # The decoder does not tell kinds of pictures: compare what comes out for it alone and in company.
    straight = (other for other in decoder.run(0, number + CHECKED_PACKETS) if other.pts == number)
    expected = next(straight, None)
    return all(expected is not None and _equal(found, expected) for found in decoder.run(number, 1))


def _in_order(decoder: Decoder, packets: Packets) -> bool:
    """Whether the first frames come out of the decoder in the order of their time stamps."""
    came = -1
    for picture in decoder.run(0, CHECKED_PACKETS):
        index = packets.index_at(picture.pts) if picture.pts is not None else -1
        if 0 <= index < came:
            return False
        came = max(came, index)
    return True


def _without_placeholders(decoder: Decoder, packets: Packets) -> Packets:
    """Packets of MPEG-4 without those that only hold the place of a picture."""
    with decoder.opened() as container:
        vops = bitstream.Vops()
        hidden = [vops.hides(packet) for packet in demuxed(container, video_stream(container))]
    return packets.with_placeholders(hidden[: packets.total], vops.packed)


def _regrouped(decoder: Decoder, packets: Packets) -> Packets:
    """Packets whose flags of key frames do not hold, in groups that begin where their own bits say so."""
    with decoder.opened() as container:
        stream = video_stream(container)
        codec, extradata = stream.codec_context.codec.canonical_name, stream.codec_context.extradata
        begins = bitstream.holds_key if packets.places is not None else bitstream.begins_closed
        coming = enumerate(demuxed(container, stream))
        keys = [number for number, packet in coming if begins(codec, bytes(packet), extradata)]
    return packets.grouped_at(keys)


def _field_order(
    decoder: Decoder, packets: Packets, looked_at: list[av.VideoFrame], flagged: bool
) -> FieldOrder:
    """Whether the pictures are woven of two fields, and which of those comes first.

    Args:
        looked_at: the pictures that have been decoded.
        flagged: the stream says that it is interlaced.
    """
    if not flagged:
        if not any(fields.is_suspicious(picture) for picture in looked_at):
            return ""
        first = np.unique(np.append(0, packets.key_frames[:2]))
        if fields.field_order(_pairs(decoder, packets, first), flagged) == "":
            return ""
    last = packets.count - 2
    keys = np.unique(np.append(0, packets.key_frames[packets.key_frames <= last]))
    spread = np.unique(np.linspace(0, max(last, 0), fields.PAIRS).astype(int))
    before = keys[np.searchsorted(keys, spread, side="right") - 1]
    starts = np.unique(np.where(spread - before > PAIR_REACH, before, spread))
    return fields.field_order(_pairs(decoder, packets, starts), flagged)


def _pairs(decoder: Decoder, packets: Packets, starts: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The luma of some pictures, each with that of the next one."""
    asked = np.unique(np.concatenate([starts, starts + 1]).clip(max=packets.count - 1))
    found = decoder.frames(packets, asked)
    luma = {index: fields.sampled_luma(picture) for picture, index in found}
    return [(luma[i], luma[i + 1]) for i in starts.tolist() if i in luma and i + 1 in luma]


def _equal(one: av.VideoFrame, other: av.VideoFrame) -> bool:
    """Whether two pictures are the same, bit by bit."""
    return all(bytes(a) == bytes(b) for a, b in zip(one.planes, other.planes, strict=True))
