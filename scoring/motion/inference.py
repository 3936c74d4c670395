"""python -m scoring.motion.inference META [flags]"""

from clipsheet.cli import main_scorer
from scoring.motion.scorer import Motion

if __name__ == "__main__":
    main_scorer(Motion)
