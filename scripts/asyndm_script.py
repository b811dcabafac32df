"""The AlwaysOn script of the WebUI: accordion values -> settings -> a plan on the job.

Thin: what a host does is in ``asyndm.hosts``, what a user sees in ``asyndm.page``.
"""

from __future__ import annotations

import gradio as gr
from modules import images, script_callbacks, scripts

import asyndm
from asyndm.core.presets import USER
from asyndm.hosts import detect, infotext, webui, xyz
from asyndm.page import preview
from asyndm.page.controls import LATER, POSITIONAL, WEBUI_FIELDS, build_controls
from asyndm.page.gradio_shim import mask_canvas, mask_parts, with_js

# All of this now: the extension's folder can be imported from only while its scripts load.
HOST = detect.find_host()
if HOST.samplers is not None:
    from modules.infotext_utils import image_from_url_text
    from modules.ui_components import InputAccordion

    from asyndm.hosts import shims
    from asyndm.hosts.hosted import on_cfg_denoiser

    USER.folder, USER.frozen = shims.presets_place()

PAINTING = (
    "Paint over the object, or load a mask (white or opaque = object). In inpaint, where nothing "
    "is painted here, the inpaint mask is used; else what both cover."
)


class AsynDMScript(scripts.Script):
    """AsynDM in txt2img and img2img."""

    def title(self):
        return webui.TITLE

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        prefix = f"{'img2img' if is_img2img else 'txt2img'}_asyndm"
        if HOST.samplers is None:
            with gr.Accordion(webui.TITLE, open=False, elem_id=prefix):
                gr.Markdown(HOST.problem)
            return []
        with InputAccordion(False, label=webui.TITLE, elem_id=prefix) as enabled:
            controls = build_controls(
                fields=WEBUI_FIELDS,
                enabled=enabled,
                hidden=("hires",) if is_img2img else ("lead",),
                prefix=prefix,
            )
            with gr.Accordion("Mask for 'painted'", open=False, elem_id=f"{prefix}_painting"):
                gr.Markdown(PAINTING)
                self.paint_over = gr.Button("Paint over the last image", size="sm")
                self.mask = mask_canvas("Mask", f"{prefix}_mask", shims.painting_canvas())
        self.infotext_fields = [
            shims.PasteField(component, infotext.Pasted(name))
            for name, component in controls.components.items()
        ]
        # Send to img2img carries them; what is pasted from an image comes by its parameters.
        self.paste_field_names = [str(target) for _, target in self.infotext_fields]
        # An API client's list: these places never change, see POSITIONAL.
        first, later = ([controls.components[name] for name in n] for n in (POSITIONAL, LATER))
        return [*first, *self.mask, *later]

    def after_component(self, component, **kwargs):
        tab = "img2img" if self.is_img2img else "txt2img"
        if kwargs.get("elem_id") == f"{tab}_gallery" and getattr(self, "mask", None):
            with_js(
                self.paint_over.click,
                "extract_image_from_gallery",
                fn=_picture,
                inputs=[component],
                outputs=[self.mask[0]],
                show_progress=False,
            )

    def before_process(self, p, *arguments):
        if HOST.samplers is None:
            return
        p.__dict__.pop(webui.ATTRIBUTE, None)  # an X/Y/Z cell copies the last cell's
        # From here on the job's own: plots and ADetailer share one dictionary among their jobs.
        shared = p.extra_generation_params
        p.extra_generation_params = {k: v for k, v in shared.items() if k not in infotext.KEYS}
        axes = getattr(p, xyz.ATTRIBUTE, None)
        parts = mask_parts(shims.painting_canvas())
        plan = webui.make_plan(arguments, p.sampler_name, axes, parts)
        if plan.settings is not None and not plan.on:
            return
        if webui.is_inner(p):
            if plan.settings is None or not plan.settings.adetailer:
                return  # it keeps the sampler it has
            plan.outer = shared
        setattr(p, webui.ATTRIBUTE, plan)
        webui.inside_script(plan, shims.running_script(p))
        unread = infotext.unread_of(plan.settings) if plan.on else ""
        if unread:
            plan.notes.append(f"AsynDM: {unread}")
        webui.announce(p, plan)
        if plan.on:
            p.extra_generation_params[infotext.KEY] = infotext.to_text(plan.settings)
            p.extra_generation_params[infotext.VERSION_KEY] = asyndm.__version__

    def process(self, p, *arguments):
        plan = getattr(p, webui.ATTRIBUTE, None)
        if plan is not None and plan.on:
            HOST.samplers.choose(p, plan)

    def process_batch(self, p, *arguments, **kwargs):
        plan = getattr(p, webui.ATTRIBUTE, None)
        if plan is not None:
            plan.begin_batch()
            p.extra_generation_params.pop(infotext.NOTE_KEY, None)
            webui.announce(p, plan)

    def process_before_every_sampling(self, p, *arguments, **kwargs):
        plan = getattr(p, webui.ATTRIBUTE, None)
        if plan is not None and plan.on:
            HOST.samplers.take_over(p)

    def postprocess(self, p, processed, *arguments):
        plan = p.__dict__.pop(webui.ATTRIBUTE, None)
        if plan is None or not plan.on or not plan.shots:
            return
        for index, picture, suffix in preview.gallery(
            plan.shots, processed.images, p.batch_size, processed.index_of_first_image
        ):
            if plan.settings.show_masks and suffix != preview.MASK:
                processed.images.append(picture)
                processed.infotexts.append(processed.infotext(p, index))
            if plan.settings.save_masks:
                images.save_image(
                    picture,
                    p.outpath_samples,
                    "",
                    processed.all_seeds[index],
                    processed.all_prompts[index],
                    "png",
                    info=processed.infotext(p, index),
                    p=p,
                    suffix=suffix,
                )


def _picture(gallery):
    """The chosen picture of the gallery, through the host's own check of what it may read."""
    return image_from_url_text(gallery) if gallery else None


def _add_axes():
    for data in scripts.scripts_data:
        if data.script_class.__module__.endswith("xyz_grid.py"):
            xyz.add_axes(data.module)


if HOST.samplers is not None:
    HOST.samplers.register()
    script_callbacks.on_cfg_denoiser(on_cfg_denoiser)
    script_callbacks.on_before_ui(_add_axes)
