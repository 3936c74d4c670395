"""Write pickled weights as safetensors, without running what they hold: python -m tools.pth_to_safetensors IN OUT

IN is a pickle of tensors (`.pth`, `.pt`, `.bin`, `.ckpt`), one of OpenAI's TorchScript archives
(`ViT-L-14.pt`), or LAION's safety head (`.zip` of a SavedModel, or Keras' `.h5`: pip install h5py).
"""

from __future__ import annotations

import os
from pathlib import Path

from clipsheet.cli import Parser, run_main
from clipsheet.errors import CallError
from clipsheet.tables.write import replacing
from clipsheet.weights.keras import nsfw_state
from clipsheet.weights.torchscript import openai_clip_state


def convert(source: Path, target: Path) -> None:
    """Write the tensors of `source` to `target`, under the same names and in the same types.

    Raises:
        CallError: `source` cannot be used, or `target` is not called `.safetensors`.
        StorageError: `target` cannot be written.
    """
    import safetensors.torch

    if target.suffix != ".safetensors":
        raise CallError(f"{target}: not called .safetensors; give another name")
    if os.path.realpath(source) == os.path.realpath(target):
        raise CallError(f"{target}: the input itself; give another name")
    state = (nsfw_state if source.suffix in (".zip", ".h5", ".hdf5") else openai_clip_state)(source)
    apart = {name: tensor.clone().contiguous() for name, tensor in state.items()}  # tied tensors are refused
    with replacing(target) as file:
        file.write(safetensors.torch.save(apart, {"format": "pt"}))  # transformers looks for this word
    print(f"{target}: {len(apart)} tensors, {target.stat().st_size:,} bytes")


def main() -> None:
    """The program."""
    parser = Parser(__doc__ or "")
    parser.add_argument("source", type=Path, metavar="IN", help="the weights")
    parser.add_argument("target", type=Path, metavar="OUT", help="a .safetensors, replaced if it is there")
    given = parser.parse_args()
    run_main(lambda: convert(given.source, given.target))


if __name__ == "__main__":
    main()
