"""python -m scoring.lpips.inference META [flags]"""

from clipsheet.cli import main_scorer
from scoring.lpips.scorer import Lpips

if __name__ == "__main__":
    main_scorer(Lpips)
