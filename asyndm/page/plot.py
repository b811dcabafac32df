"""The plot of the two clocks beside the controls."""

from __future__ import annotations

from asyndm.core.schedule import advance_distance
from asyndm.core.settings import LEARNED


def curve_points(curve: str, curvature: float, steps: int = 32) -> list[float]:
    """Noise left (1 to 0) of a pixel that is an object at every step, by step 0 ... steps."""
    distance, points = float(steps), [1.0]
    for left in range(steps, 0, -1):
        distance = advance_distance(distance, left, steps, curvature, curve)
        points.append(float(distance) / steps)
    return points


def curve_svg(curve: str, curvature: float) -> str:
    """The plot of both clocks as inline SVG: light enough to follow a moving slider."""
    left, top, width, height = 18, 18, 272, 101
    curvature = min(max(float(curvature or 0), 0.0), 1.0)

    def path(points: list[float]) -> str:
        step = width / (len(points) - 1)
        return " ".join(
            f"{left + i * step:.1f},{top + (1 - y) * height:.1f}" for i, y in enumerate(points)
        )

    background = curve_points("linear", 0)
    # A profile is one of noise levels: what it is by step the run's schedule tells.
    objects = background if curve == LEARNED else curve_points(curve, curvature)
    area = path(objects) + " " + " ".join(reversed(path(background).split()))
    bottom, right = top + height, left + width
    return f"""
<figure class="asyndm-plot" style="margin:0">
<svg viewBox="0 0 300 140" role="img" style="width:100%;max-width:290px;display:block;color:inherit"
 font-family="system-ui, sans-serif" font-size="11" fill="currentColor">
<title>Noise left over the steps</title>
<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="currentColor" stroke-opacity=".35"/>
<polygon points="{area}" fill="#e07a3f" fill-opacity=".14"/>
<polyline points="{path(background)}" fill="none" stroke="#2563eb" stroke-width="2"/>
<polyline points="{path(objects)}" fill="none" stroke="#e07a3f" stroke-width="2.5"/>
<text x="{left}" y="{top - 7}" fill-opacity=".7">noise left</text>
<text x="{left - 5}" y="{bottom + 4}" text-anchor="end" fill-opacity=".7">0</text>
<text x="{left}" y="{bottom + 15}" fill-opacity=".7">the first step</text>
<text x="{right}" y="{bottom + 15}" text-anchor="end" fill-opacity=".7">the last step</text>
<g transform="translate({left + 10},{bottom - 24})">
<path d="M0 -4h16" stroke="#e07a3f" stroke-width="2.5"/><text x="22">noise of objects</text>
<path d="M0 12h16" stroke="#2563eb" stroke-width="2"/><text x="22" y="16">noise of background</text>
</g>
</svg></figure>"""
