"""In which steps of a run masks steer."""

from __future__ import annotations

from asyndm.core.settings import Settings


def window_of(window: tuple[float, float], intervals: int) -> tuple[int, int]:
    """(first, end): masks steer out of step i where first <= i < end.

    Args:
        window: fractions of the intervals; a window of any width holds one step.
        intervals: between the first network call and the last.
    """
    start, end = (round(part * intervals) for part in window)
    # Nothing moves behind the last call, but a picture of its mask is still of interest.
    return start, intervals + 1 if window[1] == 1 else max(end, start + 1)


def steering_steps(settings: Settings, intervals: int, ready: bool) -> list[int]:
    """The steps out of which a mask moves any clock.

    Not those out of the last but one call: every pixel arrives with the last one.

    Args:
        settings: whose window, first step and origin count.
        intervals: between the first network call and the last.
        ready: the mask is known before the first call.
    """
    start, end = window_of((settings.start, settings.end), intervals)
    # The authors' clock has moved once before the first call, by what steers step 0.
    last = max(intervals - 1, 1) if settings.origin == "paper" else intervals - 1
    waits = settings.first_step == "background" and not ready
    return [i for i in range(start, min(end, last)) if i > 0 or not waits]
