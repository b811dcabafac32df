"""What the tests ask of a host, and what they look at afterwards."""

from __future__ import annotations

import inspect

import numpy as np
from PIL import Image, ImageDraw

PROMPT = "a cat beside a dog"
TWINS = [("AsynDM", "Euler a"), ("AsynDM Euler", "Euler"), ("AsynDM DPM++ 2M", "DPM++ 2M")]
# What a method of guidance sets in Forge's model_options.
OPTIONS = ("sampler_post_cfg_function", "conditioning_modifiers", "disable_cfg1_optimization")
KINDS = ("txt2img", "hires", "img2img", "inpaint")


def ticked(**settings) -> dict:
    """The API's way of ticking the box."""
    return {"alwayson_scripts": {"AsynDM": {"args": [settings]}}}


def note(made) -> str:
    """The line that an image's parameters tell of AsynDM."""
    return made.parameters.get("AsynDM note", "")


def give_the_jobs_noise(monkeypatch, sampler: str) -> None:
    """To Forge's DDPM, whose own is of no seed of an image: as the host's "Euler a" draws it."""
    if sampler != "DDPM":
        return
    from modules import sd_samplers_kdiffusion

    try:
        from backend.modules import k_diffusion_extra
    except ImportError:
        return  # another host's

    def of_the_job(x):
        return lambda *levels: sd_samplers_kdiffusion.k_diffusion.sampling.torch.randn_like(x)

    monkeypatch.setattr(k_diffusion_extra, "default_noise_sampler", of_the_job)


def script_of(tab: str = "txt2img"):
    """AsynDM's own script of a tab."""
    from modules import scripts

    runner = getattr(scripts, f"scripts_{tab}")
    return next(s for s in runner.alwayson_scripts if s.title() == "AsynDM")


def pasted(host, text: str, **changes):
    """The image of pasted parameters: by the API's own field, and in Forge, whose API fails at it,
    by what pasting puts into the script's controls."""
    try:
        return host.txt2img(infotext=text, **changes)
    except TypeError as error:
        if "parameterized generic" not in str(error):
            raise
    from modules import scripts
    from modules.infotext_utils import parse_generation_parameters

    script = script_of()
    controls = scripts.scripts_txt2img.inputs[script.args_from : script.args_to]
    arguments = [control.value for control in controls]
    parameters = parse_generation_parameters(text)
    places = {control.elem_id: place for place, control in enumerate(controls)}
    for field in script.infotext_fields:
        arguments[places[field.component.elem_id]] = field.function(parameters)
    filled = {
        **{"prompt": parameters["Prompt"], "sampler_name": parameters["Sampler"]},
        **{"alwayson_scripts": {"AsynDM": {"args": arguments}}},
    }
    return host.txt2img(**{**filled, **changes})


def scene() -> Image.Image:
    picture = Image.new("RGB", (128, 128), "#7090b0")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 80, 128, 128), fill="#506030")
    draw.ellipse((36, 40, 92, 96), fill="#c04030")
    return picture


def painted() -> Image.Image:
    mask = Image.new("L", (128, 128))
    ImageDraw.Draw(mask).rectangle((32, 32, 95, 95), fill=255)
    return mask


def request(kind: str, **more) -> tuple[str, dict]:
    """(the API's function, its request) of one kind of job."""
    more = {"prompt": PROMPT, "sampler_name": "Euler a", "steps": 5, **more}
    if kind == "txt2img":
        return "txt2img", more
    if kind == "hires":
        extra = {"enable_hr": True, "hr_scale": 1.5, "denoising_strength": 0.6}
        return "txt2img", {**more, **extra, "hr_upscaler": "Latent", "hr_second_pass_steps": 4}
    more = {"init_images": [scene()], "denoising_strength": 0.8, **more}
    if kind == "inpaint":
        whole = {"inpaint_full_res": False}
        more = {"mask": painted(), "mask_blur": 4, "inpainting_fill": 1, **whole, **more}
    return "img2img", more


def make(host, kind: str, **more):
    function, asked = request(kind, **more)
    return getattr(host, function)(**asked)


def apart(one: np.ndarray, two: np.ndarray) -> int:
    """The largest difference of two pictures, in 1/255."""
    assert one.shape == two.shape
    return int(np.abs(one.astype(int) - two.astype(int)).max())


def own_functions(module) -> list[str]:
    """What is patched on the instance itself."""
    return sorted(name for name, value in vars(module).items() if inspect.isroutine(value))


class Traces:
    """What a run must leave as it found it."""

    def __init__(self, host) -> None:
        self.host = host
        self.before = self.now()

    def now(self) -> dict:
        from modules import script_callbacks

        model = self.host.root()
        hooks = {
            name: (len(m._forward_hooks), len(m._forward_pre_hooks), own_functions(m))
            for name, m in model.named_modules()
        }
        callbacks = {key: len(value) for key, value in script_callbacks.callback_map.items()}
        objects = getattr(self.host.shared.sd_model, "forge_objects", None)
        options = dict(getattr(getattr(objects, "unet", None), "model_options", None) or {})
        options = {name: options.get(name) for name in OPTIONS}
        own = sorted(vars(model))
        return {"hooks": hooks, "own": own, "callbacks": callbacks, "options": options}

    def check(self) -> None:
        assert self.now() == self.before


PROMPTS = {
    "AND": "a cat on a sofa AND a (dog:1.3) in rain :0.8",
    "BREAK": "a (red:1.2) cat BREAK on a sofa",
    "long": "a cat, " + ", ".join(["very detailed fur and whiskers"] * 22) + ", a dog",
    "editing": "a [cat:dog:0.5] and a [bird|fish] on a table",
    "repeated": "a cat and a cat and another cat",
    "html": "<b>cat</b> & a <script>dog</script>",
}

# What is compared with a host that has no AsynDM: kind of job, what is added to the request.
UNTICKED = {
    **{kind: (kind, {}) for kind in KINDS},
    "batches": ("txt2img", {"batch_size": 2, "n_iter": 2}),
    "AND": ("txt2img", {"prompt": PROMPTS["AND"]}),
    "editing, hires": ("hires", {"prompt": PROMPTS["editing"], "sampler_name": "DPM++ 2M"}),
    "Karras": ("txt2img", {"sampler_name": "DPM++ 2M SDE", "scheduler": "Karras"}),
    "timesteps": ("txt2img", {"sampler_name": "DDIM"}),
    "two calls a step": ("img2img", {"sampler_name": "Heun"}),
    "latent noise": ("inpaint", {"inpainting_fill": 2, "sampler_name": "UniPC"}),
    "batch, inpaint": ("inpaint", {"batch_size": 2, "sampler_name": "Euler"}),
}
