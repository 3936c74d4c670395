"""python -m scoring.nsfw.inference META [flags]"""

from clipsheet.cli import main_scorer
from scoring.nsfw.scorer import Nsfw

if __name__ == "__main__":
    main_scorer(Nsfw)
