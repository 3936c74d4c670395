"""python -m pipeline.splitting.audit META [flags]"""

from clipsheet.cli import main_scorer
from scoring.shots.audit import Audit

if __name__ == "__main__":
    main_scorer(Audit)
