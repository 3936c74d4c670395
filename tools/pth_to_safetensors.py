"""Write the tensors of a weight file as safetensors, under the same names: python -m tools.pth_to_safetensors IN OUT

IN is any file that tools.convert reads. Nothing that it holds is run.
"""

from __future__ import annotations

from pathlib import Path

from clipsheet.cli import Parser, run_main
from tools.convert.formats import read, write


def main() -> None:
    """The program."""
    parser = Parser(__doc__ or "")
    parser.add_argument("source", type=Path, metavar="IN", help="the weights")
    parser.add_argument("target", type=Path, metavar="OUT", help="a .safetensors, replaced if it is there")
    given = parser.parse_args()
    run_main(lambda: print(write(read(given.source), given.target)))


if __name__ == "__main__":
    main()
