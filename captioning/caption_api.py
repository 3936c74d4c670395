"""Caption clips by a server: python -m captioning.caption_api META --api_base URL --model NAME

Any server that speaks OpenAI's protocol and takes pictures (vLLM, SGLang). `--num_frames` frames of a clip are
sent as JPEG pictures, or with `--media video` as one video, as vLLM takes it (a data URL of the type video/jpeg).
`--concurrency` requests are under way at once. The key, if it wants one, is read from the environment: OPENAI_API_KEY.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np

from captioning.caption_llava import positioned
from captioning.captioner import Answer, Ask, Captioner, main_captioner
from captioning.chat_client import Limits, Server, base_option, model_option
from clipsheet.config import option
from clipsheet.errors import MediaError
from clipsheet.media import Frame, MediaInfo, fit
from clipsheet.scorer import Home

JPEG_QUALITY = 90


@dataclass(frozen=True)
class CaptionApi(Captioner):
    """Captions by a model behind an OpenAI-compatible server."""

    name: ClassVar[str] = "caption_api"
    on_gpu: ClassVar[bool] = False
    how: ClassVar[frozenset[str]] = frozenset(
        ["api_base", "concurrency", "retries", "request_seconds", "requests_per_minute"]
    )

    api_base: str = base_option()
    model: str = model_option()
    media: str = option("images", "how frames are sent", choices=("images", "video"))
    num_frames: int = option(8, "frames that are sent", ge=1)
    shorter_size: int = option(448, "pixels of the short side at most", ge=16)
    temperature: float = option(0.0, "0: the likeliest answer; some models take 1 only", ge=0, le=2)
    concurrency: int = option(16, "requests under way at once", ge=1, le=1024)
    retries: int = option(8, "times that a request is put again", ge=0)
    request_seconds: float = option(120.0, "to wait for an answer", gt=0)
    requests_per_minute: float = option(0.0, "by each process at most; 0: no limit", ge=0)

    @property
    def in_flight(self) -> int:
        return self.concurrency

    def missing(self, models: Any) -> list[str]:
        return [
            f"no {what}: --{name} {example}"
            for name, what, example in (
                ("api_base", "server", "http://127.0.0.1:8000/v1"),
                ("model", "model", "NAME"),
            )
            if not getattr(self, name)
        ]

    def indices(self, first: int, stop: int, info: MediaInfo) -> np.ndarray:
        return positioned(first, stop, self.num_frames)

    def picture(self, frame: Frame, count: int) -> str:
        """A JPEG in base64."""
        image = frame.scaled(*fit(frame.height, frame.width, short=self.shorter_size))
        done, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        if not done:
            raise MediaError("model_error", "the picture cannot be written as JPEG")
        return base64.b64encode(data.tobytes()).decode()

    def load(self, home: Home) -> Server:
        limits = Limits(self.retries, self.request_seconds, self.requests_per_minute)
        return Server(self.api_base, self.model, self.concurrency, limits)

    def answers(self, model: Server, asks: Sequence[Ask]) -> list[Answer | MediaError]:
        return [model.ask([self.message(ask)], self.max_new_tokens, self.temperature) for ask in asks]

    def message(self, ask: Ask) -> dict[str, Any]:
        """A question as the protocol has it."""
        content: list[dict[str, Any]]
        if self.media == "video" and not ask.still:
            url = f"data:video/jpeg;base64,{','.join(ask.pictures)}"
            content = [{"type": "video_url", "video_url": {"url": url}}]
        else:
            urls = [f"data:image/jpeg;base64,{picture}" for picture in ask.pictures]
            content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        return {"role": "user", "content": [*content, {"type": "text", "text": ask.question}]}


def main() -> None:
    """The program."""
    main_captioner(CaptionApi)


if __name__ == "__main__":  # run as the module that it is: workers know its classes by that name
    from captioning.caption_api import main as program

    program()
