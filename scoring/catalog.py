"""Every scorer, once. Commands, flags, stages of a config, filters and tests are made from this list.

A new scorer adds its line here.
"""

from __future__ import annotations

from clipsheet.scorer import Scorer
from scoring.aesthetic.scorer import Aesthetic
from scoring.embedding.scorer import Embedding
from scoring.info.scorer import Info
from scoring.lpips.scorer import Lpips
from scoring.matching.scorer import Matching, OptionMatching
from scoring.motion.scorer import Motion
from scoring.nsfw.scorer import Nsfw
from scoring.ocr.scorer import Ocr
from scoring.quality.scorer import Quality
from scoring.shots.audit import Audit
from scoring.shots.detection import SceneDetect

#: By the name that `scoring.inference --scorers` knows it by; the stages `<name>_scoring` and `<name>_filtering` of a
#: config are called after it. In the order in which their bounds stand in the names of filtered tables.
SCORERS: dict[str, type[Scorer]] = {
    "info": Info,
    "ocr": Ocr,
    "aesthetic": Aesthetic,
    "matching": Matching,
    "option": OptionMatching,  # matching with given words
    "motion": Motion,
    "quality": Quality,
    "audit": Audit,
    "lpips": Lpips,
    "nsfw": Nsfw,
    "embedding": Embedding,
    "scene_detect": SceneDetect,
}
