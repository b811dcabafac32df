"""``with asyndm.steer(pipe, Settings(...)) as steered: pipe(...)``: any pipeline, asynchronous.

Inside the block the pipeline's class is a subclass of its own with another ``__call__``, and that
is all; the rest (scheduler, network) is touched for the length of a call alone.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from asyndm.core.given import ObjectMask, read_masks
from asyndm.core.masks import DynamicMasks, GivenMasks, MapAverage, MaskSource, NothingSeen
from asyndm.core.painted import curvatures_of, given_masks
from asyndm.core.run import NetworkCall
from asyndm.core.settings import Settings, SettingsError, check_whole
from asyndm.core.shadow import shadowed
from asyndm.guidance import methods
from asyndm.guidance.guide import check_network
from asyndm.guidance.measure import Measured, RowCounter
from asyndm.network import AttentionCapture, UnsupportedNetwork, attach, is_transformer
from asyndm.pipelines.calls import RowsTold, network_of, true_scale
from asyndm.pipelines.checkpoint import Checkpoint
from asyndm.pipelines.notes import idle_settings, unguided
from asyndm.pipelines.prompts import PipelineWords, t5_tokens
from asyndm.pipelines.result import Steered
from asyndm.pipelines.run import SteeredRun
from asyndm.pipelines.schedulers import form_of, parametrisation_of
from asyndm.pipelines.views import is_packed


@contextmanager
def steer(
    pipe: Any,
    settings: Settings | None = None,
    *,
    prompt: str | Sequence[str] | None = None,
    mask: Any = None,
    masks: Any = None,
    film: bool = True,
    grid: int | None = None,
) -> Iterator[Steered]:
    """Make a pipeline of diffusers asynchronous inside the block, and leave it as it was.

    Args:
        pipe: a text-to-image, image-to-image, inpainting or ControlNet pipeline of Stable Diffusion
            1, 2, XL, 3, 3.5 or Flux.1; or a :class:`Checkpoint`.
        settings: AsynDM's; ``enabled`` is not read.
        prompt: the text that ``prompt_embeds`` were made of, where the pipeline is called with
            these.
        mask: with ``mask_source="given"`` a picture, white where the object is: a PIL image, an
            array [H, W] within [0, 1], base64. Without one, the region that inpainting repaints.
        masks: one an object: a list of ``{"mask": picture, "k": 0.7, "word": "cat"}``.
        film: keep masks, clocks and timesteps of every step in the result.
        grid: read masks from a U-Net's attention of about so many cells a side; None = a quarter
            of the latents'.

    Yields:
        What the last call inside the block left: notes, film, masks, measured rows and guidance.

    Raises:
        SettingsError: settings, object words or masks that cannot be used.
        UnsupportedNetwork: a pipeline, network or scheduler that cannot be steered.
        RuntimeError: it is steered already. Each in one line that names the remedy.
    """
    pipe = pipe.pipe if isinstance(pipe, Checkpoint) else pipe
    steering = _Steering(pipe, settings or Settings(), prompt, mask, masks, film, grid)
    own = type(pipe)
    if hasattr(own, "_asyndm_steering"):
        raise RuntimeError("This pipeline is steered already; leave that block first.")
    names = ("__module__", "__qualname__", "__doc__")
    body = {name: getattr(own, name) for name in names}

    @wraps(own.__call__)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        return steering.call(lambda **more: own.__call__(self, *args, **{**kwargs, **more}),
                             inspect.signature(own.__call__), (self, *args), kwargs)  # fmt: skip

    body |= {"__call__": __call__, "_asyndm_steering": steering}
    pipe.__class__ = type(own.__name__, (own,), body)
    try:
        yield steering.result
    finally:
        pipe.__class__ = own


class _Steering:
    """One ``with`` block."""

    def __init__(
        self,
        pipe: Any,
        settings: Settings,
        prompt: Any,
        mask: Any,
        masks: Any,
        film: bool,
        grid: int | None,
    ) -> None:
        self.pipe, self.settings, self.film = pipe, settings, film
        self.grid = None if grid is None else check_whole("grid", grid, 1, 4096)
        self.prompt, self.result = prompt, Steered()
        self._lock = threading.Lock()
        self._split = False  # each step of the call has two network calls
        methods.check(settings)
        self.objects: tuple[ObjectMask, ...] = ()
        self._given_notes: list[str] = []
        if settings.mask_source == "given":
            self.objects, self._given_notes = read_masks(mask, masks, settings)
        elif mask is not None or masks is not None:
            raise SettingsError(
                "mask: it acts with mask_source='given' only; set that, or leave it out."
            )
        self._check()

    def _check(self) -> None:
        """What can be refused before a call."""
        pipe, network = self.pipe, network_of(self.pipe)
        if network is None or not hasattr(pipe, "encode_prompt") or not hasattr(pipe, "scheduler"):
            raise UnsupportedNetwork(
                f"AsynDM does not know {type(pipe).__name__}: it has no network and prompt."
            )
        # refuses what cannot be hooked or read (compiled, fused), touches nothing
        attach(network, NetworkCall(), AttentionCapture([[[[0]]]]))
        if getattr(network, "is_cache_enabled", False):
            raise UnsupportedNetwork(
                "The network keeps what its blocks said in steps before: call "
                "pipe.transformer.disable_cache() first."
            )
        form_of(pipe.scheduler, is_transformer(network))
        parametrisation_of(pipe.scheduler)
        check_network(self.settings, network)

    # --- a call ---

    def call(
        self, own: Callable[..., Any], signature: inspect.Signature, args: tuple, kwargs: dict
    ) -> Any:
        """The pipeline's call, steered."""
        if not self._lock.acquire(blocking=False):
            raise RuntimeError(
                "This pipeline is steered in another thread; call it from one thread at a time."
            )
        try:
            try:
                given = signature.bind(*args, **kwargs)
            except TypeError:
                return own()  # the pipeline's own error
            given.apply_defaults()
            return self._call(own, given.arguments)
        finally:
            self._lock.release()

    def _call(self, own: Callable[..., Any], given: dict[str, Any]) -> Any:
        result, settings = self.result, self.settings
        result.clear()
        self._check()
        if given.get("skip_guidance_layers") is not None:
            raise SettingsError(
                "skip_guidance_layers: a third prediction of its own cannot be steered; leave it "
                "out."
            )
        true = true_scale(self.pipe, given)
        self._split = (true or 1.0) > 1
        texts, batch = self._texts(given)
        result.notes += [*self._given_notes, *methods.idle(settings)]
        inpaints = hasattr(self.pipe, "prepare_mask_latents")
        result.notes += idle_settings(settings, self.pipe, inpaints, bool(self.objects))
        grid = self.grid
        if grid is not None and is_transformer(network_of(self.pipe)):
            result.notes.append("grid: a transformer has one grid of tokens; it changes nothing.")
            grid = None
        by_words = settings.mask_source != "given"
        words = None
        if texts is not None:
            words = PipelineWords(
                self.pipe, texts, settings.objects, self._seen(given), t5_tokens(self.pipe, given)
            )
            result.words += words.matched
        still = settings.clock == "synchronous"
        if not still and by_words:
            still = self._tell_words(words, given)
        if by_words:
            own_k = words.curvatures(settings.curvature) if words is not None else []
            curvatures = own_k or [settings.curvature]
        else:
            curvatures = curvatures_of(self.objects, settings)
        still = still or max(curvatures) == 0
        if not by_words and not self.objects and not inpaints and not still:
            raise SettingsError(
                "mask_source: no mask was given; pass mask= or masks= to steer, or use an "
                "inpainting pipeline."
            )
        if still and not methods.guides(settings):
            return self._own(own, batch, true)
        if not self._guides(given):
            result.notes += unguided(settings, true is not None)
        capture = steered = None
        if not still and by_words and settings.clock == "asynchronous":
            capture, steered = words.capture(settings.softmax, grid), words.steered
        maps = base_rows = None
        if capture is not None and settings.mask_source == "fixed":
            maps, base_rows = self._base_pass(own, given, capture, batch)

        def source(size: tuple[int, int], device: torch.device) -> MaskSource:
            return self._source(still, curvatures, capture, maps, run, size, device)

        run = SteeredRun(
            self.pipe, settings, batch, source, capture if maps is None else None, steered,
            float(given.get("eta") or 0.0), still, self.film, true, result.notes.append,
        )  # fmt: skip
        try:
            with run.running():
                return own()
        finally:
            self._keep(run, base_rows)

    def _keep(self, run: SteeredRun, base_rows: list[int] | None) -> None:
        if run.director is not None and run.director.history is not None:
            history = run.director.history
            self.result.film += history.frames()
            if history.last is not None:
                self.result.last_mask = history.last.float().cpu().numpy()
        if run.director is not None:
            more = base_rows or [0] * run.batch
            self.result.measured += [
                Measured(one.rows + rows, one.w_eff)
                for one, rows in zip(run.guide.measured(), more)
            ]

    def _own(self, own: Callable[..., Any], batch: int, true: float | None) -> Any:
        """The pipeline's own call; its rows are counted."""
        call = NetworkCall()
        counter, network = RowCounter(call, batch), network_of(self.pipe)
        told = RowsTold(network, call, batch, self._split)
        with told.watching(), counter.watching(network):
            made = own()
        guided = getattr(self.pipe, "do_classifier_free_guidance", False)
        scale = float(self.pipe.guidance_scale) if guided else None
        scale = true if self._split else scale
        self.result.measured += [Measured(rows, scale) for rows in counter.counts]
        return made

    def _guides(self, given: dict[str, Any]) -> bool:
        """Whether the call has rows without the prompt."""
        true = true_scale(self.pipe, given)
        if true is not None:
            return true > 1
        distilled = getattr(network_of(self.pipe).config, "time_cond_proj_dim", None) is not None
        return float(given.get("guidance_scale") or 0) > 1 and not distilled

    # --- words ---

    def _texts(self, given: dict[str, Any]) -> tuple[list[str] | None, int]:
        """([B] prompts, None where they are not known; B)."""
        prompt, times = given.get("prompt"), given.get("num_images_per_prompt") or 1
        if is_packed(network_of(self.pipe)):  # its tokens are those of the second encoder
            prompt = given.get("prompt_2") or prompt
        embeds = given.get("prompt_embeds")
        if prompt is None:
            if embeds is None:
                return None, times  # the pipeline refuses it
            prompt = self.prompt
            prompt = [prompt] * len(embeds) if isinstance(prompt, str) else prompt
            if prompt is not None and len(prompt) != len(embeds):
                raise SettingsError(
                    f"prompt: {len(prompt)} texts do not fit {len(embeds)} prompt embeddings."
                )
            count = len(embeds)
        else:
            prompt = [prompt] if isinstance(prompt, str) else list(prompt)
            count = len(prompt)
        texts = None if prompt is None else [each for each in prompt for _ in range(times)]
        return texts, count * times

    def _seen(self, given: dict[str, Any]) -> int | None:
        embeds = given.get("prompt_embeds")
        return None if embeds is None else embeds.shape[1]

    def _tell_words(self, words: PipelineWords | None, given: dict[str, Any]) -> bool:
        """Says what was found; True where nothing was."""
        say = self.result.notes.append
        if words is None:
            say(
                "prompt: the text of prompt_embeds is not known; pass it as steer(prompt=...). The "
                "picture is the pipeline's own."
            )
            return True
        for line in words.notes:
            say(line)
        for word in words.unmatched:
            say(f"objects: {word!r} is not in the prompt; it steers nothing.")
        packed = is_packed(network_of(self.pipe))
        for name in ("prompt_2", "prompt_3"):
            if given.get(name) is not None and given[name] != given.get("prompt"):
                where = f"{name}, which the network sees" if packed else "prompt alone"
                say(f"{name}: object words are looked for in {where}.")
        if not any(words.steered):
            say("objects: no word of the prompt is matched; the picture is the pipeline's own.")
            return True
        for j, has in enumerate(words.steered):
            if not has:
                say(f"image {j + 1}: no word of its prompt is matched; it stays synchronous.")
        return False

    # --- masks ---

    def _source(
        self,
        still: bool,
        curvatures: list[float],
        capture: Any,
        maps: Tensor | None,
        run: SteeredRun,
        size: tuple[int, int],
        device: torch.device,
    ) -> MaskSource:
        settings = self.settings
        if still:
            return GivenMasks(torch.zeros(1, 1, dtype=torch.bool), 0.0)
        if settings.clock == "concave":
            return GivenMasks(torch.ones(1, 1, dtype=torch.bool), max(curvatures))
        if settings.mask_source == "given":
            say = self.result.notes.append
            region = run.kept.allowed
            return given_masks(settings, self.objects, region, size, say, device)
        how = {"threshold": settings.threshold, "soft": settings.soft}
        if maps is not None:
            return GivenMasks.from_maps(maps, curvatures, **how)
        return DynamicMasks(capture, curvatures, smoothing=settings.smoothing, **how)

    def _base_pass(
        self, own: Callable[..., Any], given: dict[str, Any], capture: Any, batch: int
    ) -> tuple[Tensor, list[int]]:
        """Attention averaged over the pipeline's own call, and its rows; the call starts afresh.

        No callback is called in it, and its picture is not decoded.
        """
        network, scheduler = network_of(self.pipe), self.pipe.scheduler
        call, average = NetworkCall(), MapAverage()
        told = RowsTold(network, call, batch, self._split)
        rows, step = RowCounter(call, batch), scheduler.step

        @wraps(step)
        def watched(*args: Any, **kwargs: Any) -> Any:
            try:
                average.add(capture.read())
            except NothingSeen:
                pass
            return step(*args, **kwargs)

        without = {
            name: value
            for name, value in (
                ("callback_on_step_end", None), ("output_type", "latent"), ("return_dict", False),
            )
            if name in given
        }  # fmt: skip
        with ExitStack() as stack:
            stack.enter_context(rewound(given.get("generator")))
            stack.enter_context(told.watching())
            stack.enter_context(attach(network, call, capture))
            stack.enter_context(rows.watching(network))
            stack.enter_context(shadowed(scheduler, "step", watched))
            own(**without)
        return average.read(), rows.counts


@contextmanager
def rewound(generators: Any) -> Iterator[None]:
    """What is drawn inside the block is drawn again behind it."""
    generators = generators if isinstance(generators, (list, tuple)) else [generators]
    states = [(g, g.get_state()) for g in generators if g is not None]
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        yield
    for generator, state in states:
        generator.set_state(state)
