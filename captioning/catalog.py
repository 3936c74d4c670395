"""Every captioner, once, by the name of its stage in a config. A new one adds its line here."""

from __future__ import annotations

from captioning.caption_api import CaptionApi
from captioning.caption_llava import CaptionLlava
from captioning.caption_pllava import CaptionPllava
from captioning.caption_qwen2vl import CaptionQwen2vl
from captioning.enhance import Enhance
from clipsheet.scorer import Scorer

#: Of which only one can write `text`, but for the last, which changes it.
CAPTIONERS: dict[str, type[Scorer]] = {
    "qwen2vl_caption": CaptionQwen2vl,
    "llava_caption": CaptionLlava,
    "pllava_caption": CaptionPllava,
    "api_caption": CaptionApi,
    "enhance_caption": Enhance,
}
