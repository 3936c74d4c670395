"""Language models that run here: folders as Hugging Face has them, batches of any length, greedy decoding."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from captioning.models.language_model import Answer, Ask
from clipsheet.errors import MediaError
from clipsheet.scorer import Home
from clipsheet.weights.load import read_json
from clipsheet.weights.pretrained import load_pretrained, load_processor
from clipsheet.weights.table import place_of, refused

#: The memory that attention takes beside padding grows with the square of the length.
TOKENS_AT_ONCE = 32_768
ENDS = ("<|eot_id|>", "<|im_end|>")  # of a turn, which older folders do not name as an end
DTYPES = ("auto", "float32", "bfloat16", "float16")
#: Of a folder, beside the weights, what may change an answer.
SETTINGS = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model", "chat_template.json", "chat_template.jinja",
    "preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json",
)  # fmt: skip


def files(folder: Path) -> dict[str, Path]:
    """The files of a folder that decide about an answer, by their names."""
    found = {name: folder / name for name in SETTINGS if (folder / name).is_file()}
    found |= {path.name: path for path in sorted(folder.glob("*.safetensors"))}
    return {"config.json": folder / "config.json", **found}


#: Where the models that are called for by default are published.
PUBLISHED = {
    "Qwen2-VL-7B-Instruct": "Qwen/Qwen2-VL-7B-Instruct",
    "Qwen2.5-7B-Instruct": "Qwen/Qwen2.5-7B-Instruct",
    "llava-llama-3-8b-v1_1-transformers": "xtuner/llava-llama-3-8b-v1_1-transformers",
    "pllava-7b": "ermu2001/pllava-7b",
}


@functools.cache
def config_of(folder: Path) -> dict[str, Any]:
    """A model's config.json.

    Raises:
        CallError: it is no JSON object.
    """
    return read_json(folder / "config.json")


def lacking(folder: Path, families: Sequence[str]) -> list[str]:
    """What a model needs and is not there, or why it is not one of some families."""
    there = (folder / "config.json").is_file()
    if there and families and (family := config_of(folder).get("model_type")) not in families:
        return [f"{folder}: a model of the family {family}, not {' or '.join(families)}"]
    if there and any(folder.glob("*.safetensors")):
        return []
    file = "model.safetensors" if there else "config.json"
    source = PUBLISHED.get(folder.name, f"OWNER/{folder.name}")
    return [f"{folder / file} is not there; bring it: hf download {source} --local-dir {folder}"]


@dataclass(frozen=True)
class Loaded:
    """A model, and what prepares its inputs.

    Attributes:
        words: its tokenizer.
        processor: of pictures, or of pictures and texts.
        folder: where they came from.
    """

    model: Any
    words: Any
    processor: Any
    folder: Path
    device: str

    def generate(self, inputs: Any, limits: Sequence[int]) -> list[Answer]:
        """What the model says to each row of some prepared tensors that are padded on the left.

        Args:
            limits: tokens of each answer at most.
        """
        import torch

        ends = self._ends()
        with torch.inference_mode():
            said = self.model.generate(
                **inputs.to(self.device), max_new_tokens=max(limits), do_sample=False, num_beams=1,
                eos_token_id=sorted(ends) or None, pad_token_id=self.words.pad_token_id,
                temperature=None, top_p=None, top_k=None,
            )  # fmt: skip
        new = said[:, inputs["input_ids"].shape[1] :].tolist()
        rows = [row[:limit] for row, limit in zip(new, limits, strict=True)]
        texts = self.words.batch_decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return [
            Answer(text, len(row) >= limit and ends.isdisjoint(row))
            for text, row, limit in zip(texts, rows, limits, strict=True)
        ]

    def _ends(self) -> set[int]:
        """The tokens that end an answer: what the folder says, and its tokenizer, where either forgot the other."""
        said = self.model.generation_config.eos_token_id
        ends = {said} if isinstance(said, int) else set(said or ())
        vocabulary = self.words.get_vocab()
        return ends | {vocabulary[end] for end in (self.words.eos_token, *ENDS) if end in vocabulary}


def load_model(kind: Any, folder: Path, dtype: str, home: Home) -> Any:
    """A model of one of transformers' classes on its device, ready to answer.

    Raises:
        CallError: a file is missing or damaged, or holds weights of another architecture.
    """
    model = load_pretrained(kind, folder, {}, dtype=dtype_of(dtype, home))
    return model.to(home.device).eval()


def load_family(classes: Mapping[str, str], folder: Path, dtype: str, home: Home) -> Loaded:
    """A model and its processor, by the family that its config.json names.

    Args:
        classes: of transformers, by `model_type`.

    Raises:
        CallError: a file is missing or damaged, or holds weights of another architecture.
    """
    import transformers

    processor = load_processor(folder)
    network = load_model(getattr(transformers, classes[config_of(folder)["model_type"]]), folder, dtype, home)
    return Loaded(network, padded_left(processor.tokenizer), processor, folder, home.device)


def dtype_of(dtype: str, home: Home) -> Any:
    """The torch.dtype that one of DTYPES means on a device."""
    import torch

    if dtype == "auto":
        return torch.float32 if home.device == "cpu" else torch.bfloat16
    return getattr(torch, dtype)


def padded_left(tokenizer: Any) -> Any:
    """A tokenizer as generation needs it: what is shorter is padded before its begin."""
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@dataclass(frozen=True)
class FolderModel:
    """A language model that lies in a folder; the base of its kinds, which say how it is loaded and given a question.

    Attributes:
        families: `model_type` of the config.json of its models; empty: any.
        name: a folder in the folder of weight files, or a path to one.
        dtype: one of DTYPES.
    """

    families: ClassVar[tuple[str, ...]] = ()

    name: str
    dtype: str = "auto"

    @property
    def in_flight(self) -> int:
        """None: it runs here."""
        return 0

    def folder(self, models: Path) -> Path:
        """Where the model lies."""
        return place_of(self.name, models)

    def weights(self, models: Path) -> Mapping[str, Path]:
        """The files that decide about an answer, by their names."""
        return files(self.folder(models))

    def missing(self, models: Path) -> list[str]:
        """What load() needs and does not find, or why the model is of another family, with the remedy."""
        return lacking(self.folder(models), self.families)

    def load(self, home: Home) -> Loaded:
        """The model, once per process.

        Raises:
            CallError: a file is missing or damaged, or holds weights of another architecture.
        """
        raise NotImplementedError

    def tokens(self, loaded: Loaded, ask: Ask) -> int:
        """About how many the pictures of a question are."""
        raise NotImplementedError

    def inputs(self, loaded: Loaded, asks: Sequence[Ask]) -> Any:
        """The tensors that the model gets, by the names that its generate() takes; padded on the left.

        Raises:
            CallError: the folder has no chat template, or it is broken.
        """
        raise NotImplementedError

    def answers(self, loaded: Loaded, asks: Sequence[Ask]) -> list[Answer | MediaError]:
        """One answer per question, greedy; how many are asked at once never changes an answer."""
        found: dict[int, Answer] = {}
        for group in of_like_length([self.tokens(loaded, ask) for ask in asks]):
            few = [asks[k] for k in group]
            said = loaded.generate(self.inputs(loaded, few), [ask.max_new_tokens for ask in few])
            found |= zip(group, said, strict=True)
        return [found[k] for k in range(len(asks))]


def of_like_length(tokens: Sequence[int]) -> list[list[int]]:
    """Indices in groups: each is padded to its longest, and has at most TOKENS_AT_ONCE then, or is alone."""
    groups: list[list[int]] = []
    for index in sorted(range(len(tokens)), key=lambda k: -tokens[k]):
        if groups and tokens[groups[-1][0]] * (len(groups[-1]) + 1) <= TOKENS_AT_ONCE:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def chat(processor: Any, content: str | Sequence[Mapping[str, str]], folder: Path) -> str:
    """A question in the words of a model's chat template, up to where its answer begins.

    Raises:
        CallError: the folder has no template, or it is broken.
    """
    thoughtless = {"enable_thinking": False} if isinstance(content, str) else {}
    try:
        text: str = processor.apply_chat_template(
            [{"role": "user", "content": content if isinstance(content, str) else list(content)}],
            tokenize=False,
            add_generation_prompt=True,
            **thoughtless,
        )
    except Exception as error:  # of Jinja or of transformers
        said = str(error).partition("\n")[0]
        raise refused(folder / "chat_template.jinja", f"{type(error).__name__}: {said}") from error
    return text
