"""The AlwaysOn script of the WebUI: accordion values -> settings -> a plan on the job.

Thin: what a host does is in ``asyndm.hosts``, what a user sees in ``asyndm.page``.
"""

from __future__ import annotations

import weakref

import gradio as gr
from modules import script_callbacks, scripts

import asyndm
from asyndm.core.presets import USER
from asyndm.core.profile import PROFILES
from asyndm.hosts import detect, infotext, taken, webui, xyz
from asyndm.page import preview
from asyndm.page.chips import asking_button, wire_chips
from asyndm.page.controls import LATER, POSITIONAL, WEBUI_FIELDS, build_controls
from asyndm.page.gradio_shim import box_that_follows, mask_canvas, mask_parts, with_js
from asyndm.page.networks import watch_network

# All of this now: the extension's folder can be imported from only while its scripts load.
HOST = detect.find_host()
if HOST.samplers is not None:
    from modules.ui_components import InputAccordion

    from asyndm.hosts import chosen, measuring, saving, shims
    from asyndm.hosts.hosted import on_cfg_denoiser
    from asyndm.hosts.telling import refuse

    USER.folder, USER.frozen = shims.presets_place()
    PROFILES.folder = shims.profiles_place()

FILE = "asyndm_script.py"
PAINTING = (
    "Paint over the object, or load a mask (white or opaque = object). In inpaint, where nothing "
    "is painted here, the inpaint mask is used; else what both cover."
)


class AsynDMScript(scripts.Script):
    """AsynDM in txt2img and img2img."""

    prompt = styles = None  # the host's components
    drawn = None  # the controls
    job = None  # a weak reference to the job at work

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
        kept = None
        if self.drawn is None:  # the page; the API draws the controls once more for its defaults
            tab = prefix.partition("_")[0]
            kept = shims.kept_tick(FILE, tab, webui.TITLE)
        with InputAccordion(bool(kept), label=webui.TITLE, elem_id=prefix) as enabled:
            if kept is not None:
                box_that_follows(enabled, FILE, label=webui.TITLE, elem_id=f"{prefix}_kept")
            if HOST.lacks:
                gr.Markdown("\n\n".join(HOST.lacks), elem_id=f"{prefix}_lacks")
            controls = build_controls(
                fields=WEBUI_FIELDS,
                enabled=enabled,
                hidden=("hires",) if is_img2img else ("lead",),
                painted=lambda: self._painting(prefix),
                prefix=prefix,
            )
            watch_network(prefix, lambda: chosen.of_transformers(HOST.samplers.run.network_of))
        self.infotext_fields = [
            shims.PasteField(component, infotext.Pasted(name))
            for name, component in controls.components.items()
        ]
        # No setting: what pasted parameters tell of their prompt. Nobody sees it.
        self.found = gr.Textbox("", visible=False, elem_id=f"{prefix}_found")
        self.ask, self.drawn = asking_button(prefix), controls
        self.infotext_fields.append(shims.PasteField(self.found, _pasted_found))
        # Send to img2img carries them; what is pasted from an image comes by its parameters.
        self.paste_field_names = [
            target for _, target in self.infotext_fields if isinstance(target, str)
        ]
        # An API client's list: these places never change, see POSITIONAL.
        first, later = ([controls.components[name] for name in n] for n in (POSITIONAL, LATER))
        return [*first, *self.mask, *later, self.found]

    def _painting(self, prefix):
        """The canvas, and what is said and done above it; shown while "painted" is chosen."""
        with gr.Accordion("Mask for 'painted'", open=True, elem_id=f"{prefix}_painting"):
            gr.Markdown(PAINTING)
            self.paint_over = gr.Button(
                "Paint over the last image",
                size="sm",
                visible=shims.image_from_url_text is not None,
            )
            self.mask = mask_canvas("Mask", f"{prefix}_mask", shims.painting_canvas())

    def after_component(self, component, **kwargs):
        tab = "img2img" if self.is_img2img else "txt2img"
        for name in ("prompt", "styles"):
            if kwargs.get("elem_id") == f"{tab}_{name}":
                setattr(self, name, component)
        if kwargs.get("elem_id") == f"{tab}_gallery" and getattr(self, "mask", None):
            with_js(
                self.paint_over.click,
                "extract_image_from_gallery",
                fn=_picture,
                inputs=[component],
                outputs=[self.mask[0]],
                show_progress=False,
            )
            if self.prompt is not None:
                objects = self.drawn.components["objects"]
                where = (self.ask, self.drawn.tokens, self.prompt, objects, self.found)
                wire_chips(*where, self.styles, shims.styled)

    def before_process(self, p, *arguments):
        if HOST.samplers is None:
            return
        p.__dict__.pop(webui.ATTRIBUTE, None)  # an X/Y/Z cell copies the last cell's
        if measuring.active(p):
            return  # its pictures are the host's own
        try:
            self._plan(p, arguments)
        except Exception as error:  # the host would log it and go on, as if nothing was ticked
            plan = webui.Plan(None)
            setattr(p, webui.ATTRIBUTE, plan)
            refuse(p, plan, error)

    def _plan(self, p, arguments):
        """What is asked of the job, on the job."""
        shared, keys = p.extra_generation_params, (*infotext.KEYS, *taken.KEYS)
        axes = getattr(p, xyz.ATTRIBUTE, None)
        parts = mask_parts(shims.painting_canvas())
        plan = webui.make_plan(arguments, p.sampler_name, axes, parts)
        off = plan.settings is not None and not plan.on
        if not off or any(key in shared for key in keys):
            # The job's own: plots and ADetailer share one dictionary among their jobs.
            p.extra_generation_params = {k: v for k, v in shared.items() if k not in keys}
        if off:
            return
        plan.found = webui.found_in(arguments, parts)
        if webui.is_inner(p):
            if plan.settings is None or not plan.settings.adetailer:
                return  # it keeps the sampler it has
            plan.outer = self.job() if self.job else None
        setattr(p, webui.ATTRIBUTE, plan)
        webui.inside_script(plan, shims.running_script(p))
        if plan.on and plan.settings.adetailer and not (webui.is_inner(p) or shims.detailed(p)):
            plan.notes.append(
                "AsynDM: adetailer: no pass of it is in this job; nothing is changed."
            )
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
            if not webui.is_inner(p):  # ADetailer's inner jobs have but copies of its parameters
                self.job = weakref.ref(p)
            plan.begin_batch()
            p.extra_generation_params.pop(infotext.NOTE_KEY, None)
            webui.announce(p, plan)

    def process_before_every_sampling(self, p, *arguments, **kwargs):
        if HOST.samplers is not None:
            measuring.take_over(p, HOST.samplers.run)
        plan = getattr(p, webui.ATTRIBUTE, None)
        if plan is not None and plan.on:
            HOST.samplers.take_over(p, plan)

    def postprocess(self, p, processed, *arguments):
        plan = p.__dict__.pop(webui.ATTRIBUTE, None)
        if plan is None or not plan.on:
            return
        made, first = list(processed.images), processed.index_of_first_image
        for index, picture, suffix in preview.gallery(plan.shots, made, p.batch_size, first):
            if plan.settings.show_masks and not preview.is_plain_mask(suffix):
                processed.images.append(picture)
                processed.infotexts.append(processed.infotext(p, index))
            if plan.settings.save_masks:
                with saving.as_image(p, index):
                    shims.save_image(
                        picture,
                        basename="",
                        seed=processed.all_seeds[index],
                        prompt=processed.all_prompts[index],
                        extension="png",
                        info=processed.infotext(p, index),
                        p=p,
                        **saving.place_of(made[first + index], p, suffix),
                    )
        p.extra_generation_params.update(plan.taken.answer())  # for API clients; texts are written


def _picture(gallery):
    """The chosen picture of the gallery, through the host's own check of what it may read."""
    return shims.image_from_url_text(gallery) if gallery else None


def _pasted_found(parameters):
    return infotext.pasted_found(parameters, shims.styled).to_text()


def _add_axes():
    for data in getattr(scripts, "scripts_data", ()):
        if data.script_class.__module__.endswith("xyz_grid.py"):
            xyz.add_axes(data.module)


if HOST.samplers is not None:
    HOST.samplers.register()
    script_callbacks.on_cfg_denoiser(on_cfg_denoiser)
    shims.before_ui(_add_axes)
