"""Stands for the host's ``scripts/xyz_grid.py``: the axes' contract, and plots of two axes."""

import copy
import csv
from collections import namedtuple

from modules import processing, scripts
from modules.shared import state
from PIL import Image

AxisInfo = namedtuple("AxisInfo", ["axis", "values"])


class AxisOption:
    def __init__(
        self, label, type, apply, format_value=None, confirm=None, cost=0.0, choices=None,
        prepare=None,
    ):  # fmt: skip
        self.label, self.type, self.apply = label, type, apply
        self.format_value = format_value or (lambda p, option, x: f"{option.label}: {x}")
        self.confirm, self.cost, self.choices, self.prepare = confirm, cost, choices, prepare


class AxisOptionImg2Img(AxisOption):
    """Of one tab only."""


class AxisOptionTxt2Img(AxisOption):
    """Of one tab only."""


def _set(field):
    return lambda p, x, xs: setattr(p, field, x)


axis_options = [
    AxisOption("Nothing", str, lambda p, x, xs: None, format_value=lambda p, option, x: ""),
    AxisOption("Seed", int, _set("seed")),
    AxisOption("Steps", int, _set("steps")),
    AxisOptionTxt2Img("Sampler", str, _set("sampler_name"), format_value=lambda p, option, x: x),
    AxisOptionTxt2Img("Hires steps", int, _set("hr_second_pass_steps")),
    AxisOption("CFG Scale", float, _set("cfg_scale")),
]


class Script(scripts.Script):
    def title(self):
        return "X/Y/Z plot"

    def ui(self, is_img2img):
        import gradio as gr

        tab = AxisOptionImg2Img if is_img2img else AxisOptionTxt2Img
        self.current_axis_options = [o for o in axis_options if type(o) in (AxisOption, tab)]
        labels = [option.label for option in self.current_axis_options]
        controls = []
        for axis in "XYZ":
            controls += [
                gr.Dropdown(label=f"{axis} type", choices=labels, value=labels[0], type="index"),
                gr.Textbox(label=f"{axis} values"),
                gr.Dropdown(label=f"{axis} values", multiselect=True),
            ]
        names = ("legend", "lone images", "sub grids", "seeds -1", "vary x", "vary y", "vary z")
        controls += [gr.Checkbox(label=name) for name in names]
        return [*controls, gr.Slider(label="margin"), gr.Checkbox(label="text instead of choices")]

    def run(
        self, p, x_type, x_values, x_values_dropdown, y_type, y_values, y_values_dropdown,
        z_type, z_values, z_values_dropdown, draw_legend, include_lone_images,
        include_sub_grids, no_fixed_seeds, vary_seeds_x, vary_seeds_y, vary_seeds_z, margin_size,
        csv_mode,
    ):  # fmt: skip
        def axis(number, written, chosen):
            option = self.current_axis_options[number or 0]
            if option.label == "Nothing":
                return option, [0]
            picked = option.choices is not None and not csv_mode
            values = chosen if picked else [v.strip() for row in csv.reader([written]) for v in row]
            values = [option.type(value) for value in values]
            if option.confirm:
                option.confirm(p, values)
            return option, values

        (x, xs), (y, ys), (z, zs) = (
            axis(x_type, x_values, x_values_dropdown),
            axis(y_type, y_values, y_values_dropdown),
            axis(z_type, z_values, z_values_dropdown),
        )
        for letter, option, values in (("x", x, xs), ("y", y, ys), ("z", z, zs)):
            setattr(state, f"xyz_plot_{letter}", AxisInfo(option, values))
        images, texts, result = [], [], None
        for third in zs:
            for second in ys:
                for first in xs:
                    cell = copy.copy(p)  # one level deep: dictionaries are shared by all cells
                    for option, value, values in ((x, first, xs), (y, second, ys), (z, third, zs)):
                        option.apply(cell, value, values)
                        option.format_value(p, option, value)
                    made = processing.process_images(cell)
                    result = result or made
                    images.append(made.images[0])
                    texts.append(made.infotexts[0])
        width, height = images[0].size
        grid = Image.new("RGB", (width * len(xs), height * len(ys) * len(zs)))
        for number, image in enumerate(images):
            grid.paste(image, (number % len(xs) * width, number // len(xs) * height))
        keep = include_lone_images
        result.images = [grid, *(images if keep else [])]
        result.infotexts = [texts[0], *(texts if keep else [])]
        return result
