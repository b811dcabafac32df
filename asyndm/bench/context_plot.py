"""The context map as heat maps, with the paths that runs take through it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from asyndm.core.settings import SettingsError
from asyndm.network.context_claim import background_on_path

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PATHS = (0.3, 0.5, 0.7, 0.9)
PARTS = {"objects": "objects, the background clearer", "background": "background, objects noisier"}


def write_plot(report: Mapping[str, Any], path: Path) -> None:
    """Both maps side by side, in the format the file's name asks for.

    Raises:
        SettingsError: a format matplotlib does not write.
    """
    levels = report["levels"]
    figure, both = plt.subplots(1, 2, figsize=(11.5, 5.4), dpi=110, layout="constrained")
    for axes, (part, title) in zip(both, PARTS.items()):
        values = np.full((len(levels), len(levels)), np.nan)
        spread = values.copy()
        for row in report[part]:
            place = levels.index(row["t_object"]), levels.index(row["t_background"])
            values[place], spread[place] = row["change"], row["se"]
        # what is far off shall not make everything else look alike
        reach = float(np.nanpercentile(np.abs(values[values != 0]), 75)) if values.any() else 1.0
        image = axes.imshow(values, cmap="RdBu_r", vmin=-reach, vmax=reach, aspect="auto")
        for (o, b), value in np.ndenumerate(values):
            if b > o:
                sure = abs(value) > 2 * spread[o, b]
                axes.text(
                    b,
                    o,
                    f"{100 * value:+.0f}",
                    ha="center",
                    va="center",
                    fontsize=7 if len(levels) > 8 else 9,
                    color="white" if abs(value) > 0.7 * reach else "black",
                    alpha=1 if sure else 0.4,
                )
        for k in PATHS:
            path_x, path_y = _path(k, levels, report["steps"])
            name = f"k {k:g}".replace("0.", ".")
            axes.plot(path_x, path_y, color="black", lw=0.6 + 1.5 * k, alpha=0.8, label=name)
        axes.legend(title="a run of", fontsize=8, title_fontsize=8, frameon=False, loc="lower left")
        axes.set_xticks(range(len(levels)), levels, rotation=60, fontsize=8)
        axes.set_yticks(range(len(levels)), levels, fontsize=8)
        axes.set_xlabel("timestep of the background")
        axes.set_ylabel("timestep of the objects")
        axes.set_title(f"Error of the {title}", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        bar = figure.colorbar(image, ax=axes, shrink=0.8, extend="both")
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:+.0f}%")
    figure.suptitle(
        f"Change against one timestep for all, in per cent (pale: within two standard errors); "
        f"{report['pictures']} pictures",
        fontsize=10,
    )
    try:
        figure.savefig(path)
    except ValueError as error:
        raise SettingsError(f"plot: {path} cannot be written ({str(error):.80}).") from None
    finally:
        plt.close(figure)


def _path(k: float, levels: list[int], steps: int) -> tuple[list[float], list[float]]:
    """Places of a path in units of the levels' columns and rows."""
    rising = np.array(levels[::-1], float)
    places = np.arange(len(levels))[::-1].astype(float)
    objects = np.linspace(levels[0], levels[-1], 200)
    background = np.array([background_on_path(t, k, steps) for t in objects])
    inside = background >= levels[-1]
    return (
        list(np.interp(background[inside], rising, places)),
        list(np.interp(objects[inside], rising, places)),
    )
