"""Caption clips by a server: python -m captioning.caption_api META --api_base URL --model NAME

Any server that speaks OpenAI's protocol and takes pictures (vLLM, SGLang). `--num_frames` frames of a clip are
sent as JPEG pictures, or with `--media video` as one video, as vLLM takes it (a data URL of the type video/jpeg).
`--concurrency` requests are under way at once. The key, if it wants one, is read from the environment: OPENAI_API_KEY.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from captioning.captioner import Captioner, main_captioner
from captioning.model_fields import ServerFields, temperature_option
from captioning.models.chat_client import MEDIA, ChatClient
from captioning.viewing import AtPositions
from clipsheet.config import option


@dataclass(frozen=True)
class CaptionApi(ServerFields, Captioner):
    """Captions by a model behind an OpenAI-compatible server."""

    name: ClassVar[str] = "caption_api"
    on_gpu: ClassVar[bool] = False

    media: str = option("images", "how frames are sent", choices=MEDIA)
    num_frames: int = option(8, "frames that are sent", ge=1)
    shorter_size: int = option(448, "pixels of the short side at most", ge=16)
    temperature: float = temperature_option()

    @property
    def language_model(self) -> ChatClient:
        return self.chat_client(
            temperature=self.temperature, media=self.media, shorter_size=self.shorter_size
        )

    @property
    def look(self) -> AtPositions:
        return AtPositions(self.num_frames)


def main() -> None:
    """The program."""
    main_captioner(CaptionApi)


if __name__ == "__main__":  # run as the module that it is: workers know its classes by that name
    from captioning.caption_api import main as program

    program()
