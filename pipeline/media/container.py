"""Opening a container: by its content, and as nothing else than what it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, overload

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream

from pipeline.errors import MediaError

#: Demuxers that read one file and nothing else. Playlists and scripts (HLS, DASH, SDP, concat)
#: are left out: FFmpeg would follow them to other files and to the network.
FORMATS: Final = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,apng,"
    "h264,hevc,m4v,ivf,obu,mxf,nut,rm,dv,yuv4mpegpipe"
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
    "qtrle rpza svq1 svq3 cinepak rv10 rv20 rv30 rv40 jpeg2000 hap".split()
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


av.logging.set_level(av.logging.PANIC)


def opened(real_path: str) -> InputContainer:
    try:
        return av.open(f"file:{real_path}", container_options=CONTAINER_OPTIONS, timeout=OPEN_SECONDS)
    except (av.error.InvalidDataError, av.error.EOFError) as error:
        raise MediaError("corrupt", "no format that FFmpeg knows") from error
    except av.error.ArgumentError as error:
        raise MediaError("format_not_allowed", "a format that is not read here") from error
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


def video_stream(container: InputContainer) -> VideoStream:
    """The first video stream that is not a cover picture."""
    for stream in container.streams.video:
        if int(stream.disposition) & ATTACHED_PICTURE:
            continue
        context = stream.codec_context
        if context is None or context.name not in CODECS:
            raise MediaError("format_not_allowed", f"codec {context and context.name}")
        if context.width * context.height > MAX_PIXELS:
            raise MediaError("too_large", f"{context.width}x{context.height}")
        if not context.width * context.height:
            raise MediaError("no_frames", "no picture size")
        return stream
    raise MediaError("no_video")


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
