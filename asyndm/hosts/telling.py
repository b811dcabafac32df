"""What one sampling call tells the user: which pass or image a note is about."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from asyndm.core.settings import SettingsError
from asyndm.core.words import listed
from asyndm.hosts import infotext, webui
from asyndm.hosts.prompts import PromptWords, is_hires, written_prompts
from asyndm.hosts.regions import Laid
from asyndm.hosts.taken import ByImage
from asyndm.network import RowsMismatch, TokensMismatch, UnsupportedNetwork

log = logging.getLogger("asyndm")
# Their messages are written for the user.
_SAYS_IT = (SettingsError, UnsupportedNetwork, RowsMismatch, TokensMismatch)


def pass_of(p: Any) -> str:
    """Which pass a note is about, where a job has several; else ""."""
    if webui.is_inner(p):
        return "ADetailer's pass"
    if is_hires(p):
        return "hires pass"
    return "first pass" if getattr(p, "enable_hr", False) else ""


def skipped(p: Any, plan: webui.Plan) -> bool:
    """True for a pass that the user wants synchronous."""
    settings = plan.settings
    if webui.is_inner(p):
        return not settings.adetailer
    if is_hires(p):
        return not settings.hires
    if settings.only_hires and not getattr(p, "enable_hr", False):
        webui.note(p, plan, "only_hires: this job has no hires pass. The image is synchronous.")
    return settings.only_hires


def refuse(p: Any, plan: webui.Plan, error: Exception, where: str = "") -> None:
    """Tell the user, in one line, why an image (or a pass of it) stays synchronous."""
    text = error
    if not isinstance(error, _SAYS_IT):  # a host that changed, another extension, our own bug
        log.error("AsynDM: what failed before the first step", exc_info=error)
        text = f"{type(error).__name__}: {error or 'no message'} (see the log)."
    say(p, plan, _one_line(text), where, synchronous=True)


def say(p: Any, plan: webui.Plan, text: str, where: str = "", synchronous: bool = False) -> None:
    """One note; ``where``: the pass, "" = the whole job."""
    end = f" {'This pass' if where else 'The image'} is synchronous." if synchronous else ""
    webui.note(p, plan, f"{where}{': ' if where else ''}{text}{end}")


def _one_line(error: BaseException | str) -> str:
    text = " ".join(str(error).split())
    return text if text.endswith(".") else text + "."


class Telling:
    """The notes of one sampling call.

    Args:
        p: the host's processing object.
        plan: of the job.
        batch: images of the call.
    """

    def __init__(self, p: Any, plan: webui.Plan, batch: int) -> None:
        self.p, self.plan, self.batch = p, plan, batch

    def note(self, text: str, synchronous: bool = False) -> None:
        """One line about this pass."""
        say(self.p, self.plan, text, pass_of(self.p), synchronous)

    def image(self, j: int) -> str:
        """Image j of this call, as the user counts them in the job."""
        return f"image {getattr(self.p, 'iteration', 0) * self.batch + j + 1}"

    def words(self, words: PromptWords) -> None:
        """What was matched, what was not, and in which images nothing was."""
        self.p.comment(f"AsynDM objects: {webui.describe_match(words.matched)}")
        self.taken(words)
        for line in words.notes:
            self.note(line)
        if words.unmatched:
            self.note(
                f"objects: {_quoted(words.unmatched)} is not in the prompt; it steers nothing."
            )
        for j, has in enumerate(words.steered):
            if not has:
                self.note(f"{self.image(j)}: no object word is in its prompt; it is synchronous.")

    def taken(self, words: PromptWords) -> None:
        """The words into each image's parameters; and whether a pasted image's hold no more."""
        plan, p = self.plan, self.p
        first = getattr(p, "iteration", 0) * self.batch
        plan.taken.add(first, words.by_image, is_hires(p), words.automatic)
        if infotext.KEY in p.extra_generation_params:
            taken, settings = plan.taken, plan.settings  # not the plan: it holds pictures
            p.extra_generation_params[infotext.KEY] = ByImage(
                taken.common(settings, range(first, first + self.batch)),
                lambda j: taken.text(settings, j),
            )
        if not words.automatic or not plan.found or webui.is_inner(p):
            return
        expression, prompts = plan.settings.objects, written_prompts(p)
        if not any(plan.found.holds(text, expression) for text in prompts):
            if plan.found.told:
                self.note("found: the prompt is not the pasted one; its objects are chosen anew.")
        elif all(plan.found.of(text, expression) is None for text in prompts):
            self.note(
                "found: the pasted image does not tell which objects it took; what is chosen now "
                "may differ."
            )

    def regions(self, laid: Laid | None) -> None:
        """What became of another extension's regions; None: there are none in this pass."""
        if not is_hires(self.p):
            self.plan.regions_of = "" if laid is None else laid.owner
        elif laid is None and self.plan.regions_of:
            self.note(
                f"{self.plan.regions_of} has no regions in this pass (Forge Couple: its "
                "Compatibility); the masks are read from attention."
            )
        for line in () if laid is None else laid.notes:
            self.note(line)

    def mask_words(self, unmatched: Sequence[str]) -> None:
        """The words that masks were given need not be in the prompt; but it is said."""
        if unmatched:
            self.note(f"masks: {_quoted(unmatched)} is not in the prompt; its mask is used.")

    def unmarked(self, marked: Tensor | None, threshold: float, words: PromptWords | None) -> None:
        """Where a threshold is so high that no pixel reached it.

        Waits for the device, once, and only for a threshold that can be too high.

        Args:
            marked: [B] bool, whether any pixel was object in any step.
        """
        if threshold <= 1 or words is None or marked is None:
            return
        for j, (any_pixel, has) in enumerate(zip(marked.tolist(), words.steered)):
            if has and not any_pixel:
                self.note(
                    f"{self.image(j)}: threshold: no pixel reaches {threshold:g} times the mean, "
                    "so no mask steers; take a smaller one."
                )


def _quoted(words: Sequence[str]) -> str:
    return listed([repr(word) for word in words])
