"""python -m scoring.quality.inference META [flags]"""

from clipsheet.cli import main_scorer
from scoring.quality.scorer import Quality

if __name__ == "__main__":
    main_scorer(Quality)
