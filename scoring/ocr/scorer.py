"""Text on the screen: subtitles, titles, watermarks; found and read by PP-OCR.

The default engine is RapidOCR, whose PP-OCR weights come inside its package. `mmocr` finds text with
DBNet++ where MMOCR can be installed. Shares are fractions of the frame; overlapping boxes count once.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import cv2
import numpy as np

from clipsheet.config import option
from clipsheet.media import MediaInfo, fit
from clipsheet.scorer import Column, Frames, Home, Row, Scorer, at_most, frame_positions

MAX_SIDE = 1920  # of the picture that is read; larger ones are shrunk, boxes are scaled back
LARGEST_CHARACTER = 0.05  # share of the picture that one character alone may cover
MMOCR_DETECTOR = "dbnetpp_resnet50-oclip_fpnc_1200e_icdar2015"
MMOCR_READER = "CRNN"
MMOCR_INSTALL = (
    "`--engine mmocr` needs MMOCR, which does not install beside a current PyTorch; in an environment "
    "of its own: pip install openmim 'torch<2.2' && mim install mmengine 'mmcv<2.2' mmdet mmocr"
)


class Text(NamedTuple):
    """One piece of text: what it says, and its four or more corners in pixels of the picture."""

    transcription: str
    points: np.ndarray  # [N, 2] float


class _Picture(NamedTuple):
    image: np.ndarray  # [H, W, 3] uint8 RGB
    height: int  # of the frame it was shrunk from
    width: int


@dataclass(frozen=True)
class Ocr(Scorer):
    """Text of the middle frame, or of the frame with the most text among several."""

    name: ClassVar[str] = "ocr"

    num_boxes: bool = option(False, "also write the number of text boxes")
    max_single_percentage: bool = option(False, "also write the share of the largest box")
    total_text_percentage: bool = option(False, "also write the share of all boxes together")
    num_frames: int = option(1, "frames read; of several the one with the most text counts", ge=1)
    engine: str = option("rapidocr", "what finds and reads text", choices=("rapidocr", "mmocr"))
    det_limit_side_len: int = option(736, "pixels of the long side when text is looked for", ge=64)
    drop_score: float = option(0.5, "text read with less confidence is left out", ge=0, le=1)

    @property
    def columns(self) -> tuple[Column, ...]:
        optional = (
            (
                self.num_boxes,
                Column("num_boxes", "int", "", "text boxes", "lower", bounds=at_most("ocr_box_max", 0)),
            ),
            (
                self.max_single_percentage,
                Column(
                    "max_single_percentage",
                    "float",
                    "0-1",
                    "share of the largest box",
                    "lower",
                    bounds=at_most("ocr_single_max"),
                ),
            ),
            (
                self.total_text_percentage,
                Column(
                    "total_text_percentage",
                    "float",
                    "0-1",
                    "share of all boxes",
                    "lower",
                    bounds=at_most("ocr_total_max"),
                ),
            ),
        )
        found = Column("ocr", "json", "", "list of {transcription, points} in pixels of the frame")
        return (found, *(column for wanted, column in optional if wanted))

    def times(self, info: MediaInfo) -> Sequence[float]:
        return info.at(*frame_positions(self.num_frames))

    def prepare(self, row: Row, frames: Frames) -> list[_Picture]:
        pictures = []
        for frame in frames:
            size = fit(frame.height, frame.width, long=MAX_SIDE)
            pictures.append(_Picture(frame.rgb(*size), frame.height, frame.width))
        return pictures

    def weights(self, models: Path) -> Mapping[str, Path]:
        if self.engine != "rapidocr":
            return {}
        package = importlib.util.find_spec("rapidocr")
        if package is None or package.origin is None:
            return {}
        return {p.name: p for p in (Path(package.origin).parent / "models").glob("PP-OCR*.onnx")}

    def missing(self, models: Path) -> list[str]:
        if importlib.util.find_spec(self.engine) is not None:
            return []
        return [MMOCR_INSTALL if self.engine == "mmocr" else "pip install rapidocr onnxruntime"]

    def load(self, home: Home) -> Any:
        if self.engine == "mmocr":
            return _MmocrReader(home.device, self.drop_score)
        return _RapidReader(self.det_limit_side_len, self.drop_score)

    def score(self, model: Any, items: Sequence[list[_Picture]]) -> list[tuple[Any, ...]]:
        return [self._worst([self._look(model, picture) for picture in item]) for item in items]

    def _look(self, model: Any, picture: _Picture) -> tuple[float, int, list[Text], float]:
        """Total share, number of boxes, texts in frame pixels, share of the largest box."""
        height, width = picture.image.shape[:2]
        texts = [text for text in model.read(picture.image) if is_text(text, height, width)]
        total, single = covered(texts, height, width)
        scale = np.array([picture.width, picture.height]) / (width, height)
        texts = [Text(t.transcription, t.points * scale) for t in texts]
        return total, len(texts), texts, single

    def _worst(self, looks: list[tuple[float, int, list[Text], float]]) -> tuple[Any, ...]:
        total, count, texts, single = max(looks, key=lambda look: look[:2])
        found = [
            {"transcription": t.transcription, "points": t.points.round().astype(int).tolist()} for t in texts
        ]
        optional = (
            (self.num_boxes, count),
            (self.max_single_percentage, round(single, 5)),
            (self.total_text_percentage, round(total, 5)),
        )
        text = json.dumps(found, ensure_ascii=False)
        return (text, *(value for wanted, value in optional if wanted))


def is_text(text: Text, height: int, width: int) -> bool:
    """Whether something that was read is text: PP-OCR also reads blurs, edges and whole objects.

    Those come out as a lone `:` or `-`, or as one character as large as the object: windows read as
    one, a man on a scooter as another.
    """
    characters = [c for c in text.transcription if c.isalnum()]
    area = cv2.contourArea(text.points.astype(np.float32)) / (height * width)
    return len(characters) > 1 or (len(characters) == 1 and area <= LARGEST_CHARACTER)


def covered(texts: Sequence[Text], height: int, width: int) -> tuple[float, float]:
    """Share of a picture that some boxes cover together, and the share of the largest alone."""
    mask = np.zeros((height, width), np.uint8)
    largest = 0.0
    for text in texts:
        corners = np.clip(text.points, 0, [width - 1, height - 1])
        cv2.fillPoly(mask, [corners.round().astype(np.int32)], 1)
        largest = max(largest, float(cv2.contourArea(corners.astype(np.float32))))
    return float(mask.mean()), largest / (height * width)


class _RapidReader:
    def __init__(self, side: int, least_score: float) -> None:
        from rapidocr import RapidOCR

        self._engine = RapidOCR(
            params={
                "Global.log_level": "critical",
                "Global.text_score": least_score,
                "Det.limit_type": "max",
                "Det.limit_side_len": side,
            }
        )

    def read(self, image: np.ndarray) -> list[Text]:
        """Texts of [H, W, 3] uint8 RGB."""
        bgr = np.ascontiguousarray(image[..., ::-1])
        # The three steps are named each time: RapidOCR keeps those of the call before.
        found: Any = self._engine(bgr, use_det=True, use_cls=False, use_rec=True)
        if found.boxes is None or found.txts is None:
            return []
        return [Text(t, np.asarray(b, float)) for t, b in zip(found.txts, found.boxes, strict=True)]


class _MmocrReader:
    def __init__(self, device: str, least_score: float) -> None:
        from mmocr.apis import MMOCRInferencer

        self._least_score = least_score
        self._engine = MMOCRInferencer(det=MMOCR_DETECTOR, rec=MMOCR_READER, device=device)

    def read(self, image: np.ndarray) -> list[Text]:
        """Texts of [H, W, 3] uint8 RGB."""
        found = self._engine(np.ascontiguousarray(image[..., ::-1]))["predictions"][0]
        return [
            Text(words, np.asarray(polygon, float).reshape(-1, 2))
            for words, polygon, score in zip(
                found["rec_texts"], found["det_polygons"], found["det_scores"], strict=True
            )
            if score >= self._least_score
        ]
