"""How much moves, from the decoded pictures alone: the score does not depend on the codec.

`motion` is the motion feature of VMAF: the mean absolute difference of consecutive blurred luma
pictures, in grey levels (Netflix VMAF, feature `motion2`, which takes the smaller of the differences
to the picture before and after, so that a cut counts for nothing). `flow` is the mean length of the
optical flow between consecutive pictures, as a share of the picture's diagonal (DIS: Kroeger et al.,
"Fast Optical Flow using Dense Inverse Search", ECCV 2016).

Consecutive means 1/24 s apart, whatever the frame rate, so that 24, 30 and 60 fps footage of one
scene scores alike. A frozen clip scores 0; so does a picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np

from clipsheet.config import option
from clipsheet.media import EVERY_FRAME, MediaInfo, fit
from clipsheet.scorer import Column, Frames, Row, Scorer, at_least, at_most

#: The 5-tap blur of VMAF's motion feature, in 1/65536 (libvmaf, integer_motion.h).
VMAF_BLUR = np.array([3571, 16004, 26386, 16004, 3571], np.float32) / 65536
MOTION_SHORT_SIDE = 540  # larger pictures are shrunk to it, so that 720p and 4K score alike
FLOW_SHORT_SIDE = 256
#: DIS compares patches of 8x8 pixels, and shrinks a picture until its long side is about four of them, rounded
#: (OpenCV, dis_flow.cpp): it refuses smaller ones.
LEAST_SHORT_SIDE, LEAST_LONG_SIDE = 8, 12


@dataclass(frozen=True)
class Motion(Scorer):
    """Motion of blurred luma over the whole clip, and optical flow of a few pairs of pictures."""

    name: ClassVar[str] = "motion"

    rate: float = option(24.0, "pictures compared per second at most", gt=0)
    flow_pairs: int = option(8, "pairs of pictures whose optical flow is measured", ge=0)

    @property
    def columns(self) -> tuple[Column, ...]:
        return (
            Column(
                "motion",
                "float",
                "grey levels",
                "VMAF motion: 0 frozen, 1-5 usual, 20 violent",
                bounds=at_least("motionmin") + at_most("motionmax"),
            ),
            Column(
                "flow",
                "float",
                "diagonals/frame",
                "mean optical flow per 1/24 s, of at least 12x8 pixels; for motion alone: --flow_pairs 0",
                bounds=at_least("flowmin", order=-1),
            ),
        )

    def times(self, info: MediaInfo) -> object:
        return EVERY_FRAME

    def prepare(self, row: Row, frames: Frames) -> tuple[float, float]:
        info = frames.info
        if self.flow_pairs and not info.is_image:
            info.check_size(LEAST_SHORT_SIDE, LEAST_LONG_SIDE)
        blurred_size = fit(info.height, info.width, short=MOTION_SHORT_SIDE)
        flow_size = fit(info.height, info.width, short=FLOW_SHORT_SIDE)
        measured_at = self._flow_times(info)
        differences: list[float] = []
        flows: list[float] = []
        slot, earlier, earlier_blurred = -1, None, None
        for frame in frames:
            if int(frame.seconds * self.rate + 1e-6) == slot:
                continue
            slot = int(frame.seconds * self.rate + 1e-6)
            blurred = cv2.sepFilter2D(frame.luma(*blurred_size), cv2.CV_32F, VMAF_BLUR, VMAF_BLUR)
            if earlier_blurred is not None:
                differences.append(float(cv2.norm(blurred, earlier_blurred, cv2.NORM_L1)) / blurred.size)
            if earlier is not None and measured_at and frame.seconds > measured_at[0]:
                flows.append(mean_flow(earlier.luma(*flow_size), frame.luma(*flow_size)))
                while measured_at and frame.seconds > measured_at[0]:
                    measured_at.pop(0)
            earlier, earlier_blurred = frame, blurred
        later = [*differences[1:], *differences[-1:]]
        motion2 = np.minimum(differences, later)
        return (
            round(float(motion2.mean()), 4) if len(motion2) else 0.0,
            round(float(np.mean(flows)), 6) if flows else 0.0,
        )

    def _flow_times(self, info: MediaInfo) -> list[float]:
        """Seconds after which the next pair of pictures is measured, evenly spread."""
        return [info.duration * (k + 0.5) / self.flow_pairs for k in range(self.flow_pairs)]


def mean_flow(earlier: np.ndarray, later: np.ndarray) -> float:
    """Mean length of the optical flow between two [H, W] uint8 luma pictures, in diagonals."""
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    nothing: Any = None  # no flow to begin with
    flow = search.calc(earlier, later, nothing)  # [H, W, 2] pixels
    return float(np.hypot(flow[..., 0], flow[..., 1]).mean() / np.hypot(*earlier.shape))
