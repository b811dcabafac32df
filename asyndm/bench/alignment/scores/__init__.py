"""What pictures are judged by; a score is loaded when it is asked for.

from asyndm.bench.alignment.scores import Options, open_score
score = open_score("clipscore", Options(weights={"clipscore": Path("CLIP-ViT-H-14")}))
score.score([image], [Prompt("a cat", 0)])[0].value
"""

from .base import Absent, Options, Score, SetScore, Value
from .registry import SCORES, open_score

__all__ = ["SCORES", "Absent", "Options", "Score", "SetScore", "Value", "open_score"]
