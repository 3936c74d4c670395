"""python -m scoring.ocr.inference META [flags]"""

from clipsheet.cli import main_scorer
from scoring.ocr.scorer import Ocr

if __name__ == "__main__":
    main_scorer(Ocr)
