"""The ffmpeg program: which one, what it can do, and running it on untrusted files.

It is the one on PATH, or else the one inside the package imageio-ffmpeg.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache

from pipeline.errors import CallError, MediaError, one_line
from pipeline.media import CODEC_WHITELIST, FORMATS, MAX_PIXELS, MAX_STREAMS, PROBE_BYTES, PROBE_MICROSECONDS
from pipeline.workers import die_with_parent

OLDEST = (5, 1)  # the first with -fps_mode
MAX_ALLOC_BYTES = 1_000_000_000

#: In front of every untrusted input: one local file, of a format that refers to no other.
SAFE_INPUT = (
    "-protocol_whitelist", "file", "-format_whitelist", FORMATS, "-codec_whitelist", CODEC_WHITELIST,
    "-max_pixels", str(MAX_PIXELS), "-max_streams", str(MAX_STREAMS),
    "-probesize", str(PROBE_BYTES), "-analyzeduration", str(PROBE_MICROSECONDS),
)  # fmt: skip


@cache
def program() -> str:
    """Path of the ffmpeg to use.

    Raises:
        CallError: there is none, or it is too old.
    """
    path = shutil.which("ffmpeg")
    if path is None:
        try:
            import imageio_ffmpeg

            path = imageio_ffmpeg.get_ffmpeg_exe()
        except (ImportError, RuntimeError) as error:
            raise CallError("no ffmpeg on PATH: pip install imageio-ffmpeg") from error
    version = _version(path)
    if version is not None and version < OLDEST:
        found, needed = (".".join(map(str, v)) for v in (version, OLDEST))
        raise CallError(
            f"{path} is ffmpeg {found}, {needed} is needed: take it off PATH and pip install imageio-ffmpeg"
        )
    return path


def _version(path: str) -> tuple[int, int] | None:
    """Major and minor version; None for a build of the development tree, which names a commit."""
    match = re.match(r"ffmpeg version n?(\d+)\.(\d+)", _output(path, "-version"))
    return (int(match[1]), int(match[2])) if match else None


@cache
def encoders() -> frozenset[str]:
    """The video encoders that it has."""
    lines = _output(program(), "-hide_banner", "-encoders").splitlines()
    return frozenset(line.split()[1] for line in lines if re.match(r" V[F.][S.]", line))


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, check=True, stdin=subprocess.DEVNULL, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise CallError(f"{command[0]} does not run: {one_line(str(error))}") from error
    return done.stdout.decode("utf-8", "replace")


def run(arguments: Sequence[str]) -> str:
    """Run ffmpeg in a worker process; it ends when the worker does.

    No shell, no standard input, and of the environment PATH and the language only.

    Returns:
        What it said.

    Raises:
        OSError: the disk is full.
        MediaError: decode_error with its last words, or crashed.
    """
    parent = os.getpid()
    done = subprocess.run(
        [
            program(),
            "-nostdin",
            "-hide_banner",
            "-v",
            "error",
            "-max_alloc",
            str(MAX_ALLOC_BYTES),
            *arguments,
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8", "AV_LOG_FORCE_NOCOLOR": "1"},
        preexec_fn=lambda: die_with_parent(parent),
        check=False,
    )
    said = done.stderr[-65536:].decode("utf-8", "replace").strip()
    for reason in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        if os.strerror(reason) in said:
            raise OSError(reason, os.strerror(reason))
    if done.returncode < 0:
        raise MediaError("crashed", f"ffmpeg died of signal {-done.returncode}")
    if done.returncode:
        raise MediaError("decode_error", said.splitlines()[-1] if said else f"exit code {done.returncode}")
    return said
