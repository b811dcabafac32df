"""``python -m asyndm bench tune``: a learned clock, found on development prompts by Optuna.

Beside it, with as many network rows each, its controls: a constant k, CFG's w, and a learned clock
whose verdicts were shuffled, which must show nothing; where it is asked for, a k for each picture.
What each found is confirmed once, on fresh prompts.
"""

from .command import add_arguments, main

__all__ = ["add_arguments", "main"]
