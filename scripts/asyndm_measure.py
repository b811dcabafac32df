"""A script of the host's own list: the context map of the loaded checkpoint, in the gallery.

Thin, as the other one: measuring is in ``asyndm.hosts.measuring``, the picture in ``asyndm.page``.
"""

from __future__ import annotations

import gradio as gr
from modules import scripts
from modules.processing import process_images

from asyndm.core.settings import SettingsError
from asyndm.hosts import detect
from asyndm.network.context_claim import background_on_path
from asyndm.page.heat_map import heat_map

KNOWN = bool(detect.host_name())
if KNOWN:
    from asyndm.hosts import measuring

ABOUT = (
    "Makes pictures of your prompt (wildcards help: many subjects tell more than one) with Euler "
    "a, and measures on them what a clearer background is worth to their objects: by the network's "
    "error alone, nobody judges a picture. Below 32 pictures it mostly cannot tell."
)


class MeasureScript(scripts.Script):
    """*AsynDM: measure this checkpoint*, in txt2img."""

    def title(self):
        return "AsynDM: measure this checkpoint"

    def show(self, is_img2img):
        return KNOWN and not is_img2img

    def ui(self, is_img2img):
        gr.Markdown(ABOUT)
        (least, most, usual), levels = measuring.PICTURES, measuring.LEVELS
        return [
            gr.Slider(least, most, usual, step=2, label="Pictures to measure"),
            gr.Slider(*levels, step=1, label="Timesteps of the map"),
            gr.Textbox("", label="Object words", placeholder="auto, or e.g. shark:0.7, bike"),
        ]

    def run(self, p, pictures, levels, objects):
        try:
            measurement = measuring.Measurement(pictures, levels, objects)
        except SettingsError as error:
            p.comment(f"AsynDM: {error} Nothing is measured.")
            return process_images(p)
        measurement.prepare(p)
        processed = process_images(p)
        report, said = measurement.told()
        if report is not None:
            picture = heat_map(report, said, background_on_path)
            kept = measurement.save(p, report, said, picture)
            processed.comments = f"{kept}\n{processed.comments or ''}"
            processed.images.insert(0, picture)
            processed.infotexts.insert(0, said)
            processed.index_of_first_image += 1
        processed.comments = f"{said}\n{processed.comments or ''}"
        return processed
