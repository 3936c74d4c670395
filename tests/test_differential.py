"""Every frame of every kind of file is what ffmpeg shows: number, order, time, picture; read through or sought."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from clipsheet.media import Media
from tests import footage
from tools import ffmpeg

COUNT = 48  # frames; four groups of twelve
RATE = 25
SMALL = (24, 32)  # height and width to which pictures are averaged before they are compared
#: Mean difference in levels of two such pictures made by different scalers; neighbouring frames differ by 10 and more.
ALIKE = 4.0

X264 = (
    "-c:v",
    "libx264",
    "-preset",
    "veryfast",
    "-pix_fmt",
    "yuv420p",
    "-g",
    "12",
    "-x264-params",
    "scenecut=0:b-adapt=0",
)
X265 = ("-c:v", "libx265", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-tag:v", "hvc1")
GROUPS = "keyint=12:min-keyint=12:bframes=3:b-adapt=0:scenecut=0:log-level=none"
MPEG4 = ("-c:v", "mpeg4", "-q:v", "3", "-g", "12")
MPEG2 = ("-c:v", "mpeg2video", "-q:v", "3", "-g", "12")
VP9 = ("-c:v", "libvpx-vp9", "-b:v", "600k", "-deadline", "realtime", "-cpu-used", "8", "-g", "12")
VFR = (
    "-vf",
    r"settb=1/1000,setpts=N*40+if(gt(N\,20)\,(N-20)*300)",
    "-fps_mode",
    "passthrough",
    "-enc_time_base",
    "1:1000",
)


def coded(*codec: str, options: Sequence[str] = ()) -> Callable[[Path], None]:
    """Numbered pictures, encoded."""
    return lambda path: (footage.numbered(path, COUNT, *options, codec=codec), None)[1]


# --- what other people's machines do to files -----------------------------------------------------


def renamed_box(source: Callable[[Path], None], *boxes: bytes) -> Callable[[Path], None]:
    """An MP4 of which some tables cannot be found: readers then go without."""

    def make(path: Path) -> None:
        source(path)
        data = path.read_bytes()
        for box in boxes:
            assert box in data
            data = data.replace(box, b"free")
        path.write_bytes(data)

    return make


Change = Callable[[int, av.Packet], None]


def remuxed(
    source: Callable[[Path], None], ending: str, change: Change, **options: str
) -> Callable[[Path], None]:
    """The packets of a file in another, each changed on the way."""

    def make(path: Path) -> None:
        first = path.with_name(f"{path.stem}_first{ending}")
        source(first)
        with av.open(str(first)) as reader, av.open(str(path), "w", options=options) as writer:
            stream = writer.add_stream_from_template(reader.streams.video[0])
            for number, packet in enumerate(p for p in reader.demux(video=0) if p.size):
                change(number, packet)
                packet.stream = stream
                writer.mux_one(packet)

    return make


def all_keys(number: int, packet: av.Packet) -> None:
    packet.is_keyframe = True


def unchanged(number: int, packet: av.Packet) -> None:
    pass


def stamped(source: Callable[[Path], None], number: int, stamp_of: int) -> Callable[[Path], None]:
    """A Matroska file in which one packet has the stamp of another."""

    def make(path: Path) -> None:
        source(path)
        with av.open(str(path)) as reader:
            packets = [(p.pos or 0, p.pts or 0) for p in reader.demux(video=0) if p.size]
        data = bytearray(path.read_bytes())
        at = (
            data.index(b"\x81", packets[number][0]) + 1
        )  # the time of a block follows the number of its track
        time = (
            int.from_bytes(data[at : at + 2], "big", signed=True) + packets[stamp_of][1] - packets[number][1]
        )
        data[at : at + 2] = time.to_bytes(2, "big", signed=True)
        path.write_bytes(data)

    return make


def joined(source: Callable[..., Callable[[Path], None]], *offsets: float) -> Callable[[Path], None]:
    """Files joined byte by byte, each with a clock of its own."""

    def make(path: Path) -> None:
        parts = []
        for number, offset in enumerate(offsets):
            parts.append(path.with_name(f"{path.stem}_{number}{path.suffix}"))
            source("-output_ts_offset", str(offset), "-vf", "hflip" if number % 2 else "null")(parts[-1])
        path.write_bytes(b"".join(part.read_bytes() for part in parts))

    return make


def with_options(*codec: str) -> Callable[..., Callable[[Path], None]]:
    return lambda *options: coded(*codec, options=options)


def rewritten(
    source: Callable[[Path], None], rewrite: Callable[[list[bytes]], list[bytes]]
) -> Callable[[Path], None]:
    """An AVI file with other packets than an encoder made."""

    def make(path: Path) -> None:
        first = path.with_name(f"{path.stem}_first.avi")
        source(first)
        with av.open(str(first)) as reader, av.open(str(path), "w") as writer:
            template = reader.streams.video[0]
            stream = writer.add_stream_from_template(template)
            packets = [p for p in reader.demux(video=0) if p.size]
            for number, data in enumerate(rewrite([bytes(p) for p in packets])):
                packet = av.Packet(data)
                packet.pts = packet.dts = number
                packet.duration, packet.time_base, packet.stream = 1, template.time_base, stream
                packet.is_keyframe = vop_kind(data) == 0
                writer.mux_one(packet)

    return make


VOP = b"\x00\x00\x01\xb6"
DIVX = b"\x00\x00\x01\xb2DivX503b1393p"  # user data by which decoders know packed frames


def vop_kind(data: bytes) -> int:
    """0 I, 1 P, 2 B (ISO/IEC 14496-2, 6.3.5)."""
    return data[data.index(VOP) + 4] >> 6


def placeholder(number: int) -> bytes:
    """A picture of MPEG-4 that is not coded, at a time in 1/25 s."""
    bits = f"0101{number % RATE:05b}1001111"
    return VOP + int(bits, 2).to_bytes(2, "big")


def packed(packets: list[bytes]) -> list[bytes]:
    """Each B-frame that follows a reference frame stands in its packet, and a placeholder where it was."""
    made: list[bytes] = []
    at = 0
    while at < len(packets):
        run = [packets[at]]
        while (
            at + len(run) < len(packets)
            and vop_kind(packets[at]) != 2
            and vop_kind(packets[at + len(run)]) == 2
        ):
            run.append(packets[at + len(run)])
        made += [run[0] + run[1], *run[2:], placeholder(at)] if len(run) > 1 else run
        at += len(run)
    user = made[0].index(VOP)
    return [made[0][:user] + DIVX + made[0][user:], *made[1:]]


def with_placeholders(packets: list[bytes]) -> list[bytes]:
    """A placeholder after every third frame, as recorders write where nothing moves."""
    made: list[bytes] = []
    for number, packet in enumerate(packets):
        made += [packet, placeholder(number)] if number % 3 == 2 else [packet]
    return made


def sync_table_off_by_one(path: Path) -> None:
    """An MP4 whose table of key frames counts from 0 instead of 1."""
    coded(*X264, "-bf", "0")(path)
    data = bytearray(path.read_bytes())
    at = data.index(b"stss") + 8
    count = int.from_bytes(data[at : at + 4], "big")
    for entry in range(at + 4, at + 4 + 4 * count, 4):
        number = int.from_bytes(data[entry : entry + 4], "big")
        data[entry : entry + 4] = (number + 1).to_bytes(4, "big")
    path.write_bytes(data)


def without_stamps(source: Callable[[Path], None]) -> Callable[[Path], None]:
    """A program stream whose packets have no time stamps (ISO/IEC 13818-1, 2.4.3.6: PTS_DTS_flags)."""

    def make(path: Path) -> None:
        source(path)
        data = bytearray(path.read_bytes())
        at = data.find(b"\x00\x00\x01\xe0")
        while at >= 0:
            header = data[at + 8]
            data[at + 7] &= 0x3F
            data[at + 9 : at + 9 + header] = b"\xff" * header
            at = data.find(b"\x00\x00\x01\xe0", at + 9)
        path.write_bytes(data)

    return make


def late_false_keys(number: int, packet: av.Packet) -> None:
    """Some packets of the second half are flagged as key frames and are none."""
    packet.is_keyframe |= number in (27, 31, 40)


def mirrored(path: Path) -> None:
    """A front camera's: mirrored and lying on its side."""
    coded(*X264)(path)
    data = path.read_bytes()
    at = data.index(b"tkhd") + 4 + 40  # the matrix of a track header of version 0
    matrix = (0, 1, 0, 1, 0, 0, 0, 0, 1 << 14)
    scaled = b"".join((value << 16).to_bytes(4, "big", signed=True) for value in matrix)
    path.write_bytes(data[:at] + scaled + data[at + 36 :])


def copied(source: Callable[[Path], None], ending: str, *options: str) -> Callable[[Path], None]:
    """The packets of a file in another, by ffmpeg."""

    def make(path: Path) -> None:
        first = path.with_name(f"{path.stem}_first{ending}")
        source(first)
        footage.ffmpeg_run("-i", f"file:{first}", *options, "-c", "copy", f"file:{path}")

    return make


def cut_in_front(path: Path) -> None:
    """Of an MP4 from 0.6 s on: frames are there to decode from and are not shown."""
    whole = path.with_name("whole.mp4")
    coded(*X264, "-bf", "2")(whole)
    footage.ffmpeg_run("-ss", "0.6", "-i", f"file:{whole}", "-c", "copy", f"file:{path}")


# --- the combinations -----------------------------------------------------------------------------

B_FRAMES = (*X264, "-bf", "3")
SLOW_VP8 = (
    "-c:v",
    "libvpx",
    "-b:v",
    "200k",
    "-auto-alt-ref",
    "1",
    "-lag-in-frames",
    "16",
    "-arnr-maxframes",
    "7",
    "-g",
    "128",
)

CASES: dict[str, Callable[[Path], None]] = {
    # codecs in containers
    "h264.mp4": coded(*B_FRAMES),
    "h264.mkv": coded(*B_FRAMES),
    "h264.ts": coded(*B_FRAMES),
    "h264.flv": coded(*B_FRAMES),
    "h264.mov": coded(*X264, "-bf", "0"),
    "h264.h264": coded(*B_FRAMES),
    "hevc.mp4": coded(*X265, "-x265-params", f"{GROUPS}:open-gop=1"),
    "hevc.mkv": coded(*X265, "-x265-params", f"{GROUPS}:open-gop=0"),
    "hevc.hevc": coded(*X265, "-x265-params", GROUPS),
    "mpeg2.vob": coded(*MPEG2, "-bf", "2", "-f", "vob"),
    "mpeg2.ts": coded(*MPEG2, "-bf", "2"),
    "mpeg2.mxf": coded(*MPEG2, "-bf", "2"),
    "mpeg2_p_only.mkv": coded(*MPEG2),
    "mpeg1.mpg": coded("-c:v", "mpeg1video", "-q:v", "3", "-g", "12", "-bf", "2"),
    "mpeg4.avi": coded(*MPEG4, "-bf", "2", "-vtag", "XVID"),
    "mpeg4.mp4": coded(*MPEG4, "-bf", "2"),
    "vp8.webm": coded(
        "-c:v", "libvpx", "-b:v", "600k", "-deadline", "realtime", "-cpu-used", "8", "-g", "12"
    ),
    "vp9.webm": coded(*VP9),
    "vp9.mp4": coded(*VP9),
    "av1.mkv": coded(
        "-c:v", "libaom-av1", "-cpu-used", "8", "-usage", "realtime", "-g", "12", "-b:v", "500k"
    ),
    "mjpeg.avi": coded("-c:v", "mjpeg", "-q:v", "3", "-pix_fmt", "yuvj420p"),
    "ffv1.mkv": coded("-c:v", "ffv1"),
    "prores.mov": coded("-c:v", "prores_ks", "-pix_fmt", "yuv422p10le"),
    "huffyuv.avi": coded("-c:v", "huffyuv"),
    "flv1.flv": coded("-c:v", "flv", "-q:v", "3", "-g", "12"),
    "wmv2.wmv": coded("-c:v", "wmv2", "-q:v", "3", "-g", "12"),
    "qtrle.mov": coded("-c:v", "qtrle", "-g", "12"),
    "svq1.mov": coded("-c:v", "svq1", "-q:v", "3", "-g", "12"),
    "animation.gif": coded("-c:v", "gif"),
    "animation.apng": coded("-c:v", "apng", "-f", "apng"),
    # rates
    "vfr.mp4": coded(*B_FRAMES, options=VFR),
    "vfr.mkv": coded(*B_FRAMES, options=VFR),
    "edit_list.mp4": cut_in_front,
    "ten_bit.mp4": coded(*X264[:5], "yuv420p10le", *X264[6:]),
    "interlaced.mp4": coded(*B_FRAMES, "-flags", "+ilme+ildct"),
    "no_index.mkv": coded(*B_FRAMES, "-live", "1", "-f", "matroska"),
    "gradual_refresh.mp4": coded(*X264[:-1], "intra-refresh=1:keyint=12:bframes=0"),
    "open_groups.mkv": coded(*X264[:-1], "open-gop=1:scenecut=0:b-adapt=0:bframes=3"),
    "mirrored.mp4": mirrored,
    # key frames that are none
    "h264_no_table.mp4": renamed_box(coded(*B_FRAMES), b"stss"),
    "hevc_no_table.mp4": renamed_box(coded(*X265, "-x265-params", GROUPS), b"stss"),
    "mpeg4_no_table.mp4": renamed_box(coded(*MPEG4), b"stss"),
    "mpeg4_b_no_table.mp4": renamed_box(coded(*MPEG4, "-bf", "2"), b"stss"),
    "mpeg2_no_table.mov": renamed_box(coded(*MPEG2, "-bf", "2"), b"stss"),
    "vp9_no_table.mp4": renamed_box(coded(*VP9), b"stss"),
    "svq1_no_table.mov": renamed_box(coded("-c:v", "svq1", "-q:v", "3", "-g", "12"), b"stss"),
    "qtrle_no_table.mov": renamed_box(coded("-c:v", "qtrle", "-g", "12"), b"stss"),
    "hevc_all_keys.mkv": remuxed(coded(*X265, "-x265-params", GROUPS), ".mp4", all_keys),
    "h264_all_keys.mkv": remuxed(coded(*B_FRAMES), ".mp4", all_keys),
    "mpeg4_fragments.mp4": remuxed(coded(*MPEG4), ".mp4", all_keys, movflags="frag_every_frame+empty_moov"),
    "msmpeg4_all_keys.avi": remuxed(coded("-c:v", "msmpeg4v2", "-q:v", "3", "-g", "12"), ".avi", all_keys),
    "flv1_all_keys.flv": remuxed(coded("-c:v", "flv", "-q:v", "3", "-g", "12"), ".flv", all_keys),
    "qtrle_all_keys.mov": remuxed(coded("-c:v", "qtrle", "-g", "12"), ".mov", all_keys),
    "vp8_all_keys.mkv": remuxed(coded("-c:v", "libvpx", "-b:v", "600k", "-g", "12"), ".webm", all_keys),
    "h264_late_false_keys.mkv": remuxed(coded(*B_FRAMES), ".mp4", late_false_keys),
    "hevc_late_false_keys.mp4": remuxed(coded(*X265, "-x265-params", GROUPS), ".mp4", late_false_keys),
    "mpeg4_late_false_keys.avi": remuxed(coded(*MPEG4), ".avi", late_false_keys),
    "mpeg2_late_false_keys.mkv": remuxed(coded(*MPEG2), ".mkv", late_false_keys),
    "vp9_late_false_keys.webm": remuxed(coded(*VP9), ".webm", late_false_keys),
    "h263.avi": coded("-c:v", "h263", "-q:v", "3", "-g", "12", options=("-vf", "scale=352:288")),
    "h263.3gp": coded("-c:v", "h263", "-q:v", "3", "-g", "12", options=("-vf", "scale=352:288")),
    "off_by_one.mp4": sync_table_off_by_one,
    # times that nobody wrote
    "h264_b.avi": coded(*B_FRAMES),
    "h264_one_b.avi": coded(*X264, "-bf", "1"),
    "h264_open.avi": coded(*X264[:-1], "open-gop=1:scenecut=0:b-adapt=0:bframes=2"),
    "h264_b_all_keys.avi": remuxed(coded(*B_FRAMES), ".avi", all_keys),
    "h264_no_b.avi": coded(*X264, "-bf", "0"),
    "h264_holes.avi": coded(
        *B_FRAMES, options=("-vf", r"setpts=if(lt(N\,20)\,N\,N+30)", "-fps_mode", "passthrough")
    ),
    "hevc_b.avi": copied(coded(*X265, "-x265-params", GROUPS), ".mp4", "-bsf:v", "hevc_mp4toannexb"),
    "h264_b_again.mkv": remuxed(coded(*B_FRAMES), ".avi", unchanged),
    "h264_no_offsets.mp4": renamed_box(coded(*B_FRAMES, options=("-use_editlist", "0")), b"ctts"),
    "mpeg4_no_offsets.mp4": renamed_box(coded(*MPEG4, "-bf", "2", options=("-use_editlist", "0")), b"ctts"),
    "packed.avi": rewritten(coded(*MPEG4, "-bf", "2"), packed),
    "packed_one_b.avi": rewritten(coded(*MPEG4, "-bf", "1"), packed),
    "no_stamps.vob": without_stamps(coded(*MPEG2, "-bf", "2", "-f", "vob")),
    "no_stamps.m2v": coded(*MPEG2, "-bf", "2", "-f", "mpeg2video"),
    "hidden_frames.webm": coded(*SLOW_VP8),
    # clocks
    "joined.ts": joined(with_options(*X264, "-bf", "0"), 0, 0.01),
    "joined_b.ts": joined(with_options(*B_FRAMES), 0, 0, 0.5),
    "joined_hevc.ts": joined(with_options(*X265[:-2], "-x265-params", f"{GROUPS}:open-gop=0"), 0, 0),
    "joined_mpeg2.ts": joined(with_options(*MPEG2, "-bf", "2"), 3, 0),
    "joined_ahead.ts": joined(with_options(*B_FRAMES), 0, 7200),
    "joined_back.ts": joined(with_options(*B_FRAMES), 7200, 0),
    "joined.mpg": joined(with_options("-c:v", "mpeg1video", "-q:v", "3", "-g", "12", "-bf", "2"), 0, 0),
    "repeated.mkv": stamped(coded(*X264, "-bf", "0", options=VFR), 30, 29),
    "repeated_b.mkv": stamped(coded(*B_FRAMES), 30, 29),
    "repeated.webm": stamped(coded(*VP9, options=VFR), 30, 29),
    "far_back.mkv": stamped(coded(*X264, "-bf", "0"), 30, 2),
    "far_ahead.mkv": stamped(coded(*X264, "-bf", "0"), 30, 45),
}
#: How many frames may be shown at another time than ffmpeg's.
UNSURE = {
    "repeated.mkv": 1,
    "repeated.webm": 1,
    "repeated_b.mkv": 1,
    "far_back.mkv": 1,
    # ffmpeg itself guesses at the first and the last of them
    "h264_b_again.mkv": 5,
    "h264_no_offsets.mp4": 3,
    "mpeg4_no_offsets.mp4": 2,
}
#: Of which all frames are 1/25 s apart, whatever ffmpeg makes of the wrong stamp.
EVEN = ("far_ahead.mkv", "repeated_b.mkv")


@dataclass(frozen=True)
class Shown:
    """What ffmpeg shows: [N] seconds since the first frame, and [N, *SMALL] uint8 luma."""

    seconds: np.ndarray
    pictures: np.ndarray


def shown_by_ffmpeg(path: Path) -> Shown:
    times = path.with_name(f"{path.name}.times")
    height, width = SMALL
    small = f"scale={width}:{height}:flags=area,format=gray"
    command = [ffmpeg.program(), "-nostdin", "-v", "error", "-y", "-i", f"file:{path}"]
    for output in (("-f", "rawvideo", "-"), ("-enc_time_base", "1:90000", "-f", "framecrc", f"file:{times}")):
        command += ["-an", "-fps_mode", "passthrough", "-vf", small, *output]
    data = subprocess.run(command, capture_output=True, check=False).stdout
    lines = times.read_text().splitlines()
    tick = next(Fraction(line.split()[-1]) for line in lines if line.startswith("#tb"))
    stamps = [int(line.split(",")[2]) for line in lines if not line.startswith("#")]
    seconds = (np.array(stamps) - stamps[0]) * float(tick)
    return Shown(seconds, np.frombuffer(data, np.uint8).reshape(-1, height, width))


@pytest.mark.parametrize("name", CASES)
def test_every_frame_is_the_one_that_ffmpeg_shows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    CASES[name](path)
    truth = shown_by_ffmpeg(path)
    media = Media(str(path))
    frames = list(media.frames())
    assert [frame.index for frame in frames] == list(range(len(truth.pictures)))
    assert len(media.info.frame_seconds) == len(truth.pictures) >= 30
    for frame, picture in zip(frames, truth.pictures, strict=True):
        difference = np.abs(frame.luma(*SMALL).astype(int) - picture).mean()
        assert difference < ALIKE, (frame.index, difference)
    expected = np.arange(COUNT) / RATE if name in EVEN else truth.seconds
    off = media.info.frame_seconds - expected
    wrong = np.abs(off - np.median(off)) > 0.5 / RATE
    assert wrong.sum() <= UNSURE.get(name, 0), (wrong, media.info.frame_seconds, truth.seconds)
    assert (np.diff(media.info.frame_seconds) > 0).all()
    for seconds in random.Random(name).choices(np.linspace(0, media.info.duration, 200).tolist(), k=10):
        index = media.info.index_at(seconds)
        [sought] = media.frames([index])
        assert np.array_equal(sought.rgb(), frames[index].rgb()), (seconds, index)


def test_a_picture_that_is_not_coded_is_no_frame_and_leaves_the_one_before_it_standing(
    tmp_path: Path,
) -> None:
    path = tmp_path / "placeholders.avi"
    rewritten(coded(*MPEG4), with_placeholders)(path)
    media = Media(str(path))
    assert [footage.number_in(frame.rgb()) for frame in media.frames()] == list(range(COUNT))
    slots = [slot for slot in range(COUNT * 4 // 3) if slot % 4 != 3]
    assert media.info.frame_seconds == pytest.approx(np.array(slots) / RATE)
