"""The ffmpeg program that renders the demo's videos: the one on PATH, or the one inside imageio-ffmpeg.

The pipeline itself needs none: it reads and writes videos by the FFmpeg inside PyAV.
"""

from __future__ import annotations

import shutil
from functools import cache

from pipeline.errors import CallError


@cache
def program() -> str:
    """Its path.

    Raises:
        CallError: there is none.
    """
    path = shutil.which("ffmpeg")
    if path is not None:
        return path
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise CallError("no ffmpeg on PATH: pip install imageio-ffmpeg") from error
