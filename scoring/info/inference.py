"""python -m scoring.info.inference META [flags]"""

from clipsheet.cli import main_scorer
from scoring.info.scorer import Info

if __name__ == "__main__":
    main_scorer(Info)
