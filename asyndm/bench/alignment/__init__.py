"""``python -m asyndm bench alignment``: which method's pictures follow their prompts better?

One thing a file: methods, prompt sets, backends, the store, scores, statistics, the report.
"""

from .command import add_arguments, main

__all__ = ["add_arguments", "main"]
