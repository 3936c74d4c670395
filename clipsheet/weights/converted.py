"""Names of converted weight files: where tools.convert writes, and which foreign files a file can be made of.

The run time reads safetensors, pickles of tensors and Hugging Face folders. Other formats are foreign.
"""

from __future__ import annotations

from pathlib import Path

CONVERT = "python -m tools.convert"
#: Foreign formats of heads: a TensorFlow SavedModel in a zip, and Keras HDF5.
HEAD_SUFFIXES = (".zip", ".h5", ".hdf5")
#: Foreign format of CLIP: OpenAI's TorchScript archive.
CLIP_SUFFIX = ".pt"
#: The weights in a Hugging Face folder: a pickle in older ones, which transformers is not allowed to read here.
PICKLE, MODEL = "pytorch_model.bin", "model.safetensors"


def is_foreign(path: Path) -> bool:
    """Whether a file of this name is read by tools.convert only."""
    return path.suffix in (CLIP_SUFFIX, *HEAD_SUFFIXES) or path.name == PICKLE


def converted(source: Path) -> Path:
    """The file that the run time reads in place of a foreign one: `X/model.safetensors` of OpenAI's `X.pt`,
    `model.safetensors` of `pytorch_model.bin`, else `X.safetensors`."""
    if source.suffix == CLIP_SUFFIX:
        return source.with_suffix("") / MODEL
    return source.with_name(MODEL) if source.name == PICKLE else source.with_suffix(".safetensors")


def originals(path: Path) -> list[Path]:
    """The foreign files that a file can be made of, by its name, whether they exist or not."""
    found = []
    if path.parent.name:
        found.append(path.parent.with_name(path.parent.name + CLIP_SUFFIX))
    if path.name == MODEL:
        found.append(path.with_name(PICKLE))
    if path.suffix == ".safetensors":
        found += [path.with_suffix(suffix) for suffix in HEAD_SUFFIXES]
    return found
