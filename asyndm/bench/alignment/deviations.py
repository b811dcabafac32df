"""What is known to differ from the papers, for a report to print beside each method."""

from __future__ import annotations

from .methods import Method

OF_PAPER = (
    "The AsynDM paper's table cannot be matched figure by figure: its k and object words were set "
    "per prompt, each of its sets is 40 chosen prompts, all prompts share their seeds, and its "
    "judge's question and its rivals' settings are not published.",
    "One k for all prompts, and object words found in the prompt, unless a method says otherwise.",
)
_OF = {
    "s-cfg": "attention is spread by (S + 3 S^2) / 4, as the authors' code does, not their "
    "formula; any size; norms are of the network's output, so that no region is told by its clock",
    "seg": "any size: each side has its own kernel; the third prediction is a call of its own",
    "tpg": "the order of tokens is the step's and the block's alone, the same for all images",
    "cfg++": "each pixel is renoised at its own level; DPM++ 2M has AsynDM's cap; no negative "
    "prompt of its own, which is part of its published figures",
    "cfg++w": "CFG with w = lambda / (1 - sigma_down / sigma) of the host's own step",
}
_ZIGZAG = (
    "the inversion is exact, where the published one is an index off; zigzags add no noise; it "
    "has no effective guidance and is not matched by it"
)


def of(method: Method) -> list[str]:
    """One line each."""
    lines = []
    if method.settings.guidance in _OF:
        lines.append(f"{method.settings.guidance}: {_OF[method.settings.guidance]}")
    if method.zigzags:
        lines.append(f"z-sampling: {_ZIGZAG}")
    if method.clock == "asynchronous" and method.settings.origin == "host":
        lines.append("asyndm: the clock is the host's own; origin=paper has the authors' indexing")
    return lines
