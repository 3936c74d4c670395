"""python -m scoring.aesthetic.inference META [flags]"""

from clipsheet.cli import main_scorer
from scoring.aesthetic.scorer import Aesthetic

if __name__ == "__main__":
    main_scorer(Aesthetic)
