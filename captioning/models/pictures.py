"""Frames made small for a model, as pixels or as JPEG."""

from __future__ import annotations

import base64

import cv2
import numpy as np

from clipsheet.errors import MediaError
from clipsheet.media import Frame, fit

JPEG_QUALITY = 90


def shrunk(frame: Frame, shorter_size: int) -> np.ndarray:
    """[H, W, 3] uint8 RGB in the frame's own shape, its shorter side of at most `shorter_size` pixels."""
    return frame.scaled(*fit(frame.height, frame.width, short=shorter_size))


def jpeg(image: np.ndarray) -> str:
    """A picture as JPEG in base64.

    Args:
        image: [H, W, 3] uint8 RGB.

    Raises:
        MediaError: model_error, where it cannot be written.
    """
    done, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise MediaError("model_error", "the picture cannot be written as JPEG")
    return base64.b64encode(data.tobytes()).decode()
