"""Videos and pictures: the only package that opens one.

A file is opened by its content, never by its name, and only as what it is: no playlist, script or
URL is followed. Times are seconds since the first shown frame, taken from the presentation time
stamps, so that variable frame rates, edit lists and streams that start late are exact.
"""

from clipsheet.media.decode import DEINTERLACE, MAX_BAD_RATIO, READERS, Media
from clipsheet.media.frame import Frame, fit
from clipsheet.media.info import EVERY_FRAME, MediaInfo
from clipsheet.media.paths import check_path

#: Raise it when frames, their number or their times change for the same file: what was made of them is made anew.
VERSION = 2

__all__ = [
    "DEINTERLACE",
    "EVERY_FRAME",
    "MAX_BAD_RATIO",
    "READERS",
    "VERSION",
    "Frame",
    "Media",
    "MediaInfo",
    "check_path",
    "fit",
]
