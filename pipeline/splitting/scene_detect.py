"""python -m pipeline.splitting.scene_detect META [flags]"""

from clipsheet.cli import main_scorer
from scoring.shots.detection import SceneDetect

if __name__ == "__main__":
    main_scorer(SceneDetect)
