"""CLIP's text encoder and its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipsheet.scorer import Home
from clipsheet.weights.pretrained import load_tokenizer
from scoring.clip.files import architecture, place
from scoring.clip.weights import load_encoder

TEXTS_AT_ONCE = 64


class ClipTexts:
    """The text half of a model: from texts to unit vectors.

    Raises:
        CallError: the weights or the vocabulary are not what they must be.
    """

    def __init__(self, clip: str, dtype: str, home: Home) -> None:
        import torch
        import transformers

        path = place(clip, home.models)
        kinds = {"clip": transformers.CLIPTextModelWithProjection, "siglip": transformers.SiglipTextModel}
        self._kind = architecture(clip, home.models).kind
        self._device, self._dtype = home.device, getattr(torch, dtype)
        self._model = load_encoder(path, kinds[self._kind]).to(home.device, self._dtype).eval()
        self._most = int(self._model.config.max_position_embeddings)
        self._tokenizer = _tokenizer(path)

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, list[bool]]:
        """[N, D] float64 unit vectors, and which texts were longer than the model reads."""
        tokens = [self._tokenizer(text) for text in texts]
        at_once = 1 if self._device == "cpu" else TEXTS_AT_ONCE
        parts = [self._encode(tokens[i : i + at_once]) for i in range(0, len(tokens), at_once)]
        return unit(np.concatenate(parts)), [len(t) > self._most for t in tokens]

    def _encode(self, tokens: Sequence[list[int]]) -> np.ndarray:
        import torch

        cut = [t if len(t) <= self._most else [*t[: self._most - 1], t[-1]] for t in tokens]
        # CLIP looks at what is before the end of a text only; SigLIP was trained on full lines.
        length = max(map(len, cut)) if self._kind == "clip" else self._most
        filled = [t + [self._tokenizer.filler] * (length - len(t)) for t in cut]
        with torch.inference_mode():
            output = self._model(input_ids=torch.tensor(filled, device=self._device))
            vectors = output.text_embeds if self._kind == "clip" else output.pooler_output
            return np.asarray(vectors.float().cpu().numpy())


def unit(vectors: np.ndarray) -> np.ndarray:
    """[..., D] float64 of length 1."""
    wide = vectors.astype(np.float64)
    return np.asarray(wide / np.linalg.norm(wide, axis=-1, keepdims=True))


class _Tokenizer:
    """From a text to all its tokens, the first and the last ones included.

    As transformers makes them; OpenAI's own code first mends broken Unicode (ftfy) and HTML entities.
    """

    def __init__(self, tokenizer: Any, filler: int) -> None:
        self._tokenizer = tokenizer
        self.filler = filler

    def __call__(self, text: str) -> list[int]:
        return list(self._tokenizer(text, verbose=False)["input_ids"])


def _tokenizer(path: Path) -> _Tokenizer:
    tokenizer = load_tokenizer(path)
    return _Tokenizer(tokenizer, tokenizer.pad_token_id or 0)
