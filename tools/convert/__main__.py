"""Convert a weight file to what the scorers read, without running what it holds: python -m tools.convert FILE

FILE is CLIP as OpenAI published it (`ViT-L-14.pt`, with bpe_simple_vocab_16e6.txt.gz beside it), which becomes the
folder `ViT-L-14`; LAION's safety head (`.zip` of a SavedModel, or Keras' `.h5`: pip install h5py), or a pickle of
tensors (`.pth`, `.bin`, `.ckpt`), which become a `.safetensors`. The numbers stay the same.
"""

from __future__ import annotations

from pathlib import Path

from clipsheet.cli import Parser, run_main
from tools.convert.formats import convert


def main() -> None:
    """The program."""
    parser = Parser(__doc__ or "")
    parser.add_argument("source", type=Path, metavar="FILE", help="the weights")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="PATH",
        help="a .safetensors, or a folder for CLIP (default: beside FILE)",
    )
    given = parser.parse_args()
    run_main(lambda: print(convert(given.source, given.output)))


if __name__ == "__main__":
    main()
