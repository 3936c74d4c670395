"""Opening a container: by its content, and as nothing else than what it is."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, overload

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream

from clipsheet import places
from clipsheet.errors import MediaError

#: Demuxers that read one file and nothing else. Playlists and scripts (HLS, DASH, SDP, concat)
#: are left out: FFmpeg would follow them to other files and to the network.
FORMATS: Final = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,apng,"
    "h264,hevc,m4v,mjpeg,ivf,obu,mxf,nut,rm,dv,yuv4mpegpipe"
)
MAX_PIXELS: Final = 8192 * 8192  # room for 8K, not for a 144-megapixel bomb
MAX_STREAMS: Final = 64
PROBE_BYTES: Final = 10_000_000
PROBE_MICROSECONDS: Final = 10_000_000
OPEN_SECONDS: Final = 20.0
ATTACHED_PICTURE: Final = 0x400  # AV_DISPOSITION_ATTACHED_PIC

#: Decoders of the video that cameras, archives and web sites really hold.
CODECS: Final = frozenset(
    "h264 hevc av1 libdav1d libaom-av1 vvc vp7 vp8 vp9 libvpx libvpx-vp9 vp6 vp6f mpeg1video "
    "mpeg2video mpeg4 msmpeg4v1 msmpeg4v2 msmpeg4 h261 h263 h263i flv wmv1 wmv2 wmv3 vc1 theora "
    "mjpeg mjpegb gif apng png webp prores dnxhd cfhd dvvideo ffv1 huffyuv ffvhuff utvideo rawvideo "
    "qtrle rpza svq1 svq3 cinepak rv10 rv20 rv30 rv40 jpeg2000 hap "
    "v210 r210 magicyuv dirac jpegls zmbv flashsv flashsv2 msvideo1".split()
)

#: Decoders of the sound that these containers hold. Sources: RFC 2361 and Microsoft's mmreg.h (AVI, ASF); Apple's
#: QuickTime File Format and mp4ra.org (MOV, MP4); 3GPP TS 26.244 (3GP); Adobe's FLV specification 10.1, E.4.2.1; the
#: Matroska codec registry; ATSC A/53, ETSI TS 101 154, DVD and Blu-ray (MPEG streams); SMPTE ST 382 (MXF); for
#: RealMedia the codecs of RealProducer. Game codecs are left out.
SOUND_CODECS: Final = frozenset(
    "aac aac_latm mp1 mp1float mp2 mp2float mp3 mp3float ac3 eac3 dca truehd mlp s302m opus libopus vorbis speex "
    "flac alac tta wavpack amrnb amrwb qcelp evrc wmav1 wmav2 wmapro wmalossless wmavoice cook sipr atrac3 ralf "
    "real_144 real_288 nellymoser qdm2 qdmc mace3 mace6 imc iac on2avc dvaudio gsm gsm_ms truespeech msnsiren "
    "g722 g726 g726le g723_1 adpcm_ms adpcm_ima_wav adpcm_ima_qt adpcm_ima_amv adpcm_yamaha adpcm_swf "
    "pcm_u8 pcm_s8 pcm_s16le pcm_s16be pcm_s24le pcm_s24be pcm_s32le pcm_s32be pcm_f32le pcm_f32be pcm_f64le "
    "pcm_f64be pcm_mulaw pcm_alaw pcm_dvd pcm_bluray".split()
)

#: Includes the sound decoders, which FFmpeg needs to probe a container.
CODEC_WHITELIST: Final = ",".join(sorted(CODECS | SOUND_CODECS))

CONTAINER_OPTIONS: Final = {
    "protocol_whitelist": "file",
    "format_whitelist": FORMATS,
    "codec_whitelist": CODEC_WHITELIST,
    "max_streams": str(MAX_STREAMS),
    "probesize": str(PROBE_BYTES),
    "analyzeduration": str(PROBE_MICROSECONDS),
}

BEGINNING_BYTES: Final = 4096  # of a file in which a playlist's first words are looked for
_XML: Final = rb"(?:<\?xml[^>]*>|<!--.*?-->|<!DOCTYPE[^>]*>|\s)*<(?:\w+:)?"
#: How playlists and scripts begin, and with which characters.
PLAYLISTS: Final = {
    rb"#EXTM3U": "an M3U or HLS playlist",
    rb"ffconcat version": "an ffconcat script",
    rb"v=0\s+o=": "a session description (SDP)",
    _XML + rb"MPD\b": "a DASH manifest",
    _XML + rb"SmoothStreamingMedia\b": "a Smooth Streaming manifest",
    _XML + rb"(?i:asx|smil)\b": "a playlist",
    rb"(?i:\[(?:playlist|reference)\])\s": "a playlist",
}
PLAYLISTS_BEGIN: Final = frozenset([b"#", b"f", b"v", b"<", b"["])

av.logging.set_level(av.logging.PANIC)


def opened(real_path: str, demuxer: str | None = None) -> InputContainer:
    """Open a file.

    Args:
        demuxer: FFmpeg's name of its format, where that is known; else FFmpeg finds it.

    Raises:
        MediaError: it cannot be opened, or is in a format that is not read.
    """
    try:
        try:
            return _opened(real_path, demuxer)
        except av.error.ArgumentError:  # FFmpeg took a format that is not read from the ending of the name
            with _nameless(real_path) as path:
                return _opened(path, demuxer)
    except (av.error.InvalidDataError, av.error.EOFError) as error:
        raise _refused(real_path, "corrupt", "no format that FFmpeg knows") from error
    except av.error.ArgumentError as error:
        raise _refused(real_path, "format_not_allowed", "a format that is not read here") from error
    except av.error.FileNotFoundError as error:
        raise MediaError("missing", error.strerror or "") from error
    except av.error.ExitError as error:
        raise MediaError("timeout", f"not open after {OPEN_SECONDS:g} s") from error
    except av.error.MemoryError as error:
        raise MediaError("out_of_memory", error.strerror or "") from error
    except (av.error.OSError, av.error.PermissionError) as error:
        raise MediaError("unreadable", error.strerror or "") from error
    except av.error.FFmpegError as error:
        raise MediaError("corrupt", str(error)) from error


def _opened(path: str, demuxer: str | None) -> InputContainer:
    return av.open(
        f"file:{path}", format=demuxer, container_options=CONTAINER_OPTIONS, timeout=OPEN_SECONDS,
        metadata_errors="replace",
    )  # fmt: skip


@contextlib.contextmanager
def _nameless(real_path: str) -> Iterator[str]:
    """Another path of a file, without an ending; good for opening it while this lasts."""
    try:
        descriptor = places.descriptor(real_path)
    except OSError as error:
        raise MediaError("unreadable", error.strerror or "") from error
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _refused(real_path: str, code: str, detail: str) -> MediaError:
    """Why a file was not opened; FFmpeg 8 knows several playlists by their names only."""
    listed = playlist(beginning(real_path))
    if listed:
        return MediaError("format_not_allowed", f"{listed}: it names other files, which are not followed")
    return MediaError(code, detail)


def beginning(real_path: str) -> bytes:
    """The first bytes of a file; none where it cannot be read."""
    try:
        descriptor = places.descriptor(real_path)
    except OSError:
        return b""
    try:
        return os.read(descriptor, BEGINNING_BYTES)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def playlist(begins: bytes) -> str:
    """What kind of playlist or script a file is that begins like this; empty where it is none."""
    text = begins.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text[:1] not in PLAYLISTS_BEGIN:
        return ""
    return next((kind for pattern, kind in PLAYLISTS.items() if re.match(pattern, text, re.DOTALL)), "")


def recognised(real_path: str) -> tuple[str, bool]:
    """FFmpeg's name of a file's format, by its content, and whether it is sure; nothing of it is opened.

    The name is empty where FFmpeg knows none. With no format allowed, opening ends behind the search for the
    format, and the log says what it found.
    """
    options = CONTAINER_OPTIONS | {"format_whitelist": "none"}
    level, skips = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.WARNING)
    av.logging.set_skip_repeated(False)  # the same message for the next file
    try:
        with (
            av.logging.Capture() as said,
            _nameless(real_path) as path,
            contextlib.suppress(av.error.FFmpegError),
        ):
            av.open(
                f"file:{path}", container_options=options, timeout=OPEN_SECONDS, metadata_errors="replace"
            ).close()
    finally:
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skips)
    name = next((by for _, by, message in said if message.startswith("Format not on whitelist")), "")
    return name, not any("low score" in message for _, _, message in said)


def video_stream(container: InputContainer) -> VideoStream:
    """The video stream that FFmpeg takes of several (av_find_best_stream), never a cover picture.

    Raises:
        MediaError: there is none, or its codec or size is not read here.
    """
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or _is_cover(stream):
        stream = next(iter(video_streams(container)), None)
    if stream is None:
        raise MediaError("no_video")
    context = stream.codec_context
    if context is None or context.name not in CODECS:
        raise MediaError("format_not_allowed", f"codec {context and context.name}")
    if context.width * context.height > MAX_PIXELS:
        raise MediaError("too_large", f"{context.width}x{context.height}")
    if not context.width * context.height:
        raise MediaError("no_frames", "no picture size")
    return stream


def video_streams(container: InputContainer) -> list[VideoStream]:
    """All video streams that are no cover pictures."""
    return [stream for stream in container.streams.video if not _is_cover(stream)]


def _is_cover(stream: VideoStream) -> bool:
    return bool(int(stream.disposition) & ATTACHED_PICTURE)


def decoder_of(stream: VideoStream) -> av.VideoCodecContext:
    """The decoder of a stream, with one thread: the workers use the cores."""
    context = stream.codec_context
    context.options = {"max_pixels": str(MAX_PIXELS)}
    context.thread_count = 1
    return context


def sound_stream(container: InputContainer) -> AudioStream | None:
    """The first sound stream; None where there is none, or its codec is none of SOUND_CODECS."""
    stream = next(iter(container.streams.audio), None)
    context = stream and stream.codec_context
    return stream if context is not None and context.name in SOUND_CODECS else None


def demuxed(container: InputContainer, stream: VideoStream | AudioStream) -> Iterator[av.Packet]:
    """The packets of a stream in the order of the file, up to its end or to where it breaks."""
    try:
        for packet in container.demux(stream):
            if packet.size:
                yield packet
    except av.error.FFmpegError:
        return


@overload
def decoded(context: av.VideoCodecContext, packet: av.Packet | None) -> Sequence[av.VideoFrame]: ...
@overload
def decoded(context: av.AudioCodecContext, packet: av.Packet | None) -> Sequence[av.AudioFrame]: ...
def decoded(context: Any, packet: av.Packet | None) -> Sequence[Any]:
    """The pictures, or the sound, that come out for a packet; none when the packet is damaged."""
    try:
        return context.decode(packet)
    except av.error.MemoryError as error:
        raise MediaError("out_of_memory", str(error)) from error
    except av.error.FFmpegError:
        return []
