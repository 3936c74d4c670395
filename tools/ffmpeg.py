"""The ffmpeg program that renders the demo's videos: the one inside imageio-ffmpeg, or the one on PATH.

The one inside the package comes first: it is the same on every machine, and distributions carry old ones.

The pipeline itself needs none: it reads and writes videos by the FFmpeg inside PyAV.
"""

from __future__ import annotations

import shutil
from functools import cache

from clipsheet.errors import CallError


@cache
def program() -> str:
    """Its path.

    Raises:
        CallError: there is none.
    """
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        path = shutil.which("ffmpeg")
    if path is None:
        raise CallError("no ffmpeg program: pip install imageio-ffmpeg")
    return path
