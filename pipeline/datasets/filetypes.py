"""Which files are videos and which are pictures: by their endings, by a few bytes, or by opening them."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import Final

from clipsheet.errors import MediaError
from clipsheet.media import Media, check_path
from clipsheet.media.container import FORMATS, beginning, playlist, recognised
from clipsheet.media.images import signature

VIDEO: Final = "video"
IMAGE: Final = "image"

#: Listed without being opened.
VIDEO_ENDINGS: Final = frozenset(
    ".mp4 .m4v .mp4v .mov .qt .avi .mkv .mk3d .webm .flv .f4v .wmv .asf .dvr-ms .mpg .mpeg .m1v .m2v .mpv .vob .ts "
    ".mts .m2t .m2ts .trp .3gp .3gpp .3g2 .3gp2 .ogv .ogm .mxf .gif .divx .rm .rmvb .dv .y4m .h264 .264 .h265 .265 "
    ".hevc .ivf .obu .nut .insv .lrv .mjpeg .mjpg .apng .avifs .heics .heifs".split()
)
IMAGE_ENDINGS: Final = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .bmp .dib .ppm .pgm .pbm .pnm .tif .tiff .webp .avif .heic .heif .hif".split()
)
#: A few bytes decide, for both kinds of file have these endings; where they say nothing, the list above does.
EITHER_ENDINGS: Final = frozenset(".png .apng .webp .avif .avifs .heic .heif .hif .heics .heifs".split())
#: Of sound, but some of them hold video.
OGG_ENDINGS: Final = frozenset(".ogg .ogx".split())
CHECKED_ENDINGS: Final = EITHER_ENDINGS | OGG_ENDINGS
#: In use, but not read here: such a file is opened, and if it is indeed none that is read, it is refused.
UNREAD_VIDEO_ENDINGS: Final = frozenset(
    ".m3u8 .m3u .mpd .sdp .ffconcat .asx .wvx .ism .ismc "  # playlists and manifests
    ".wtv .roq .amv .swf .bik .bk2 .smk .nsv .gxf .lxf .r3d .braw .ari .cine .crm .mlv .dav .flc .fli .flic .dxa .cpk "
    ".thp .usm .mve .vqa .vmd .nuv .pva .ty .tivo .viv .vivo .ivr .moflex .xmv .rpl .ifv .kux .qsv .yuv .avs2 .avs3 "
    ".cavs .drc .vc1 .vc2 .vvc .266 .apv .h261 .h263 .cdxl .xesc .mjp .mj2 .m4s .cmfv .ismv".split()
)
EITHER_UNREAD_ENDINGS: Final = frozenset([".jxl"])
UNREAD_IMAGE_ENDINGS: Final = frozenset(
    ".jxl .jp2 .j2k .j2c .jpc .jpf .jpx .jpm .jph .jxr .wdp .hdp .psd .psb .svg .svgz .ico .cur .icns .tga .exr .hdr "
    ".pcx .qoi .dds .fits .fit .dpx .cin .xcf .wbmp .xbm .xpm .sgi .ras .pam .pfm .bpg .flif .eps .emf .wmf "
    ".dng .cr2 .cr3 .crw .nef .nrw .arw .sr2 .srf .raf .orf .rw2 .rwl .pef .srw .x3f .3fr .fff .iiq .kdc .dcr .erf "
    ".mrw .mef .mos".split()
)
#: Not looked into: text, documents, programs, archives, models, sound, and what is still being written.
OTHER_ENDINGS: Final = frozenset(
    ".txt .md .rst .csv .tsv .json .jsonl .yaml .yml .toml .ini .cfg .xml .html .htm .css .js .log .py .pyc .sh .c .h "
    ".srt .vtt .ass .ssa .sub .idx .lrc .nfo .pdf .doc .docx .xls .xlsx .ppt .pptx .odt .epub .ttf .otf .woff .woff2 "
    ".zip .tar .gz .tgz .bz2 .xz .zst .7z .rar .iso .exe .dll .so .jar .apk .deb .parquet .arrow .npy .npz .pkl .pt "
    ".pth .ckpt .safetensors .onnx .gguf .h5 .hdf5 .tfrecord .db .sqlite "
    ".mp3 .mp2 .wav .flac .aac .m4a .m4b .oga .opus .wma .mka .ac3 .eac3 .dts .amr .aif .aiff .caf .ape .wv .mid "
    ".midi .pls .wax .wpl .part .tmp .crdownload".split()
)
#: FFmpeg's demuxers of video that are not read: each of them must be certain of its format by its first bytes.
#: (`ffmpeg -demuxers`, without those of sound, subtitles and data.)
REFUSED_VIDEO: Final = frozenset(
    "wtv roq nsv gxf lxf r3d cine mlv dhav flic dxa film_cpk thp usm wsvqa vmd nuv pva ty vivo ivr moflex xmv rpl ifv "
    "kux bink smk swf smjpeg mpjpeg amv anm apv argo_brp avs avs2 avs3 bethsoftvid bfi bmv c93 cavsvideo cdxl concat "
    "dash dfa dirac dnxhd dsicin ea evc filmstrip gdv h261 h263 hls hnm idcin iff ingenient ipmovie ipu iv8 jv "
    "jpegxl_anim live_flv lmlm4 luodat lvf mgsts mm mods mtv mv mvi mxg nc paf pdv pmp psxstr rl2 rtsp sap sdp "
    "ser sga siff simbiosis_imx smush tiertexseq tmv v210 v210x vc1 vc1test vividas vvc wc3movie "
    "webm_dash_manifest yop 4xm".split()
)
READ_VIDEO: Final = frozenset(FORMATS.split(","))
OGG_VIDEO: Final = re.compile(
    rb"\x80theora|OVP80|BBCD|\x01video\0"
)  # how the first packets of video streams begin
#: Of a file that may be a playlist under a video's name: one of HLS for five hours, of 6 s and 100 bytes a segment,
#: has 300 kB. Larger files are not opened.
PLAYLIST_BYTES: Final = 512 << 10


def endings(kind: str) -> frozenset[str]:
    """Of files that are listed as videos (or pictures)."""
    return VIDEO_ENDINGS if kind == VIDEO else IMAGE_ENDINGS


def unread_endings(kind: str) -> frozenset[str]:
    """Of files that are called videos (or pictures) and are not read."""
    return UNREAD_VIDEO_ENDINGS if kind == VIDEO else UNREAD_IMAGE_ENDINGS


def skipped_endings(kind: str) -> frozenset[str]:
    """Of files that are not opened where videos (or pictures) are looked for."""
    other = IMAGE if kind == VIDEO else VIDEO
    return (OTHER_ENDINGS | endings(other) | unread_endings(other)) - CHECKED_ENDINGS - EITHER_UNREAD_ENDINGS


def kind_of(path: str | None, ending: str) -> str:
    """VIDEO, IMAGE or nothing, by the ending of a file, and by its first bytes where both kinds have that one.

    Args:
        path: of a regular file; None where it is none and is not to be opened.
        ending: in lower case, with its dot.
    """
    if path is not None and ending in CHECKED_ENDINGS:
        if ending in OGG_ENDINGS:
            return VIDEO if OGG_VIDEO.search(beginning(path)) else ""
        with contextlib.suppress(MediaError):  # a row for the next tool
            found = signature(path)
            if found.format:
                return VIDEO if found.moving else IMAGE
    if ending in VIDEO_ENDINGS:
        return VIDEO
    return IMAGE if ending in IMAGE_ENDINGS else ""


@dataclass(frozen=True)
class Look:
    """What a file was found to be when it was opened.

    Attributes:
        kind: VIDEO, IMAGE, or nothing for a file that is neither.
        error: why it cannot be read, though it is such a file.
    """

    kind: str = ""
    error: MediaError | None = None


def look(path: str) -> Look:
    """Open a file whose ending says nothing.

    A file that cannot be read counts as what FFmpeg or its first bytes are certain that it is. Sound, text
    and what FFmpeg only guesses at are neither.

    Raises:
        MediaError: as check_path(); unreadable.
    """
    real, _ = check_path(path)
    found = signature(real)
    listed = playlist(beginning(real))
    name, sure = ("", True) if found.format else recognised(real)
    if not (found.format or name or listed):
        return Look()
    try:
        return Look(IMAGE if Media(path).info.is_image else VIDEO)
    except MediaError as error:
        if found.format and (found.certain or error.code != "corrupt"):
            return Look(VIDEO if found.moving else IMAGE, error)
        if listed:
            return Look(VIDEO, error)
        if not sure or error.code == "no_video":
            return Look()
        if error.code == "format_not_allowed" and not error.detail.startswith("codec"):
            error = MediaError(error.code, f"{name}: a format that is not read here")
        if READ_VIDEO.intersection(name.split(",")) or name in REFUSED_VIDEO:
            return Look(VIDEO, error)
        return Look(IMAGE, error) if name.endswith("_pipe") or name == "ico" else Look()
