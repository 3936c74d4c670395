"""Any causal language model of transformers with a chat template; it is shown no pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from captioning.models.folder import FolderModel, Loaded, chat, load_model, padded_left
from captioning.models.language_model import Ask
from clipsheet.scorer import Home
from clipsheet.weights.pretrained import load_tokenizer


@dataclass(frozen=True)
class CausalLm(FolderModel):
    """A language model for texts."""

    def load(self, home: Home) -> Loaded:
        import transformers

        folder = self.folder(home.models)
        words = padded_left(load_tokenizer(folder))
        network = load_model(transformers.AutoModelForCausalLM, folder, self.dtype, home)
        return Loaded(network, words, words, folder, home.device)

    def tokens(self, loaded: Loaded, ask: Ask) -> int:
        return 0  # of pictures

    def inputs(self, loaded: Loaded, asks: Sequence[Ask]) -> Any:
        texts = [chat(loaded.words, ask.question, loaded.folder) for ask in asks]
        inputs = loaded.words(texts, padding=True, return_tensors="pt", add_special_tokens=False)
        inputs.pop("token_type_ids", None)  # which some tokenizers make and most models refuse
        return inputs
