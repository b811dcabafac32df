"""In a WebUI: the context map of the loaded checkpoint, measured on pictures it has just made.

The job makes its pictures as it always would. Behind each sampling call their latents are noised
anew and shown to the network at two levels, by the same way a run goes
(:class:`asyndm.hosts.hosted.HostRun`); masks are read from the attention of the call itself.
"""

from __future__ import annotations

import inspect
import json
import logging
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from modules import shared
from modules.sd_samplers_common import InterruptedException
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from asyndm.core.masks import MapAverage, NothingSeen
from asyndm.core.schedule import PixelTime, resample
from asyndm.core.settings import Settings, SettingsError, check_whole
from asyndm.hosts import detect, hosted, shims
from asyndm.hosts.calls import SamplingCall
from asyndm.hosts.saving import beside
from asyndm.hosts.webui import Plan
from asyndm.network import UnsupportedNetwork
from asyndm.network.context_claim import sentence
from asyndm.network.context_map import ContextMeter, grid_levels
from asyndm.network.predicting import union_of

log = logging.getLogger("asyndm")

TITLE = "AsynDM: measure this checkpoint"
ATTRIBUTE = "asyndm_measurement"  # on the processing object
SAMPLER = "Euler a"  # of the pictures: the paper's, and every host has it
_MADE = ("prompt", "negative_prompt", "seed", "steps", "cfg_scale", "width", "height")
PICTURES, LEVELS = (2, 128, 16), (4, 12, 7)  # least, most, what is usual


class Measurement:
    """What one job has measured so far.

    Args:
        pictures, levels: how many.
        objects: object words, "" = found in the prompt.

    Raises:
        SettingsError: a value that cannot be used.
    """

    def __init__(self, pictures: Any, levels: Any, objects: str = "") -> None:
        self.pictures = check_whole("pictures", pictures, *PICTURES[:2])
        self.levels = check_whole("levels", levels, *LEVELS[:2])
        self.settings = Settings(enabled=True, curvature=1.0, objects=str(objects or ""))
        self.meter: ContextMeter | None = None
        self.problem = ""
        self.interrupted = False

    def prepare(self, p: Any) -> None:
        """The job makes only what is measured."""
        p.batch_size = max(2, int(p.batch_size))  # controls take another picture's mask
        p.n_iter = math.ceil(self.pictures / p.batch_size)
        p.sampler_name, p.scheduler = SAMPLER, "Automatic"
        p.enable_hr = False
        p.do_not_save_grid = True
        if isinstance(p.seed, (int, float)) and p.seed >= 0:
            p.seed = int(p.seed)
        setattr(p, ATTRIBUTE, self)

    def told(self) -> tuple[dict[str, Any] | None, str]:
        """(the report, None where there is none; what may be said of it)."""
        if self.meter is None or self.meter.pictures < 2:
            why = self.problem or "no two pictures were measured."
            return None, f"AsynDM: nothing is known of this checkpoint: {why}"
        report = self.meter.report()
        stopped = f" Stopped at {self.meter.pictures} pictures." if self.interrupted else ""
        return report, f"{sentence(report)}{stopped}"

    def save(self, p: Any, report: dict[str, Any], said: str, picture: Image.Image) -> str:
        """Keep the map among the job's own pictures, its rows beside it; returns a line on it.

        The rows are those of ``bench context --json``, with what the pictures were made of.

        Args:
            p: the job.
            report, said: of :meth:`told`.
            picture: the map's.
        """
        if p.do_not_save_samples:
            return "AsynDM: this job saves no images, so the map's rows are not saved either."
        shims.save_image(
            picture, p.outpath_samples, "asyndm-context", extension="png", info=said, p=p
        )
        place = beside(picture, ".json")
        if place is None:
            return "AsynDM: the host does not tell where it saved the map; its rows are not saved."
        info = getattr(shared.sd_model, "sd_checkpoint_info", None)
        rows = {
            **{"pictures": report["pictures"], "model": getattr(info, "title", "unknown")},
            **{"source": "made", "host": detect.host_name(), "sampler": SAMPLER},
            "made": {name: getattr(p, name, None) for name in _MADE},
            **{**report, "sentence": said},
        }
        try:
            place.write_text(json.dumps(rows, indent=1, default=str) + "\n", "utf-8")
        except OSError as error:
            return f"AsynDM: the map's rows could not be saved as {place}: {error.strerror}."
        return f"AsynDM: the map's rows are in {place}"


def active(p: Any) -> bool:
    """Whether a job is one that measures."""
    return getattr(p, ATTRIBUTE, None) is not None


def take_over(p: Any, run: type[hosted.HostRun]) -> None:
    """Before a sampling call of a job that measures: measure behind it."""
    measurement = getattr(p, ATTRIBUTE, None)
    twin = getattr(getattr(p, "sampler", None), "func", None)
    if measurement is None or not callable(twin):
        return
    kind = type(f"Measuring{run.__name__}", (_Measuring, run), {"measurement": measurement})

    def measuring(model, x, sigmas, extra_args=None, callback=None, disable=None, **options):
        call = SamplingCall("ddpm", twin, model, x, sigmas, extra_args, callback, disable, options)
        return _sample(kind, measurement, call)

    measuring.__signature__ = inspect.signature(twin)
    p.sampler.func = measuring


def _sample(kind: type, measurement: Measurement, call: SamplingCall) -> Tensor:
    try:
        run = kind(Plan(measurement.settings), call)
        if run.capture is None or not run.words.matched:
            raise SettingsError("no object word is in the prompt; name some, or another prompt.")
        if getattr(run.p, "refiner_checkpoint_info", None) is not None:
            raise SettingsError("a refiner changes the model midway; switch it off.")
    except Exception as error:
        _tell(measurement, error)
        return call.run_twin()
    return run.sample()


def _tell(measurement: Measurement, error: Exception) -> None:
    if not isinstance(error, (SettingsError, UnsupportedNetwork)):
        log.exception("AsynDM: what failed while measuring")
    text = " ".join(str(error).split()) or type(error).__name__
    measurement.problem = text if text.endswith(".") else text + "."


class _Measuring:
    """Ahead of a host's run among the bases: makes the picture as its twin, then measures."""

    measurement: Measurement

    def sample(self) -> Tensor:
        setattr(self.denoiser, hosted.RUN, self)
        try:
            average = MapAverage()

            def collect(state: dict) -> None:
                with suppress(NothingSeen):
                    average.add(self.capture.read())
                if self.job.callback is not None:
                    self.job.callback(state)

            self.attach()
            image = self.job.run_twin(collect)
            if self.failure is not None:
                _tell(self.measurement, self.failure)
                return image
            try:
                self._measure(image, average)
            except InterruptedException:
                self.measurement.interrupted = True
            except Exception as error:  # the pictures are made; only the map is lost
                _tell(self.measurement, error)
            return image
        finally:
            self._detach()
            delattr(self.denoiser, hosted.RUN)

    def _measure(self, image: Tensor, average: MapAverage) -> None:
        measurement = self.measurement
        masks = resample(union_of(average.read()), tuple(image.shape[-2:]))
        meter = measurement.meter
        if meter is None:
            levels = grid_levels(self.parametrisation, measurement.levels)
            meter = measurement.meter = ContextMeter(self.parametrisation, levels)
        state, step = shared.state, self.denoiser.step
        done, whole = state.sampling_step, state.sampling_steps
        last = self.sampler_last()
        self.denoiser.step = max(step - 1, 0)  # the prompt as it ends
        first = getattr(self.p, "iteration", 0) * len(image)
        state.sampling_steps = meter.calls
        try:
            with tqdm(total=meter.calls, desc="AsynDM measures", unit="call") as bar:

                def tick() -> None:
                    bar.update()
                    state.sampling_step = bar.n

                seeds = [31_000_003 + first + number for number in range(len(image))]
                meter.add(_Asked(self), image.float(), masks[:, None], seeds, tick)
        finally:
            self.denoiser.step = step
            state.sampling_step, state.sampling_steps = done, whole
            last()

    def sampler_last(self) -> Callable[[], None]:
        """Puts back what the host keeps as its last prediction, which an interrupt would show."""
        sampler = self.denoiser.sampler
        kept = getattr(sampler, "last_latent", None)
        return lambda: setattr(sampler, "last_latent", kept)


class _Asked:
    """The host's CFG denoiser as a predictor: without guidance, at the end of the prompt."""

    def __init__(self, run: Any) -> None:
        self.run = run
        self.extra = {**(run.job.extra_args or {}), "cond_scale": 1.0}
        if "s_min_uncond" in self.extra:
            self.extra["s_min_uncond"] = 0.0

    def __call__(self, x: Tensor, time: PixelTime) -> Tensor:
        run, call = self.run, self.run.call
        step = run.denoiser.step
        call.pixel_time = time
        call.timestep_table = run.timesteps(time.sigma_table)
        call.reading = time.uniform
        try:
            level = time.sigma_table[-1].expand(len(x)).to(run.job.sigmas.dtype)
            return run._denoise(x.to(run.job.x.dtype), level, **self.extra)
        finally:
            call.clear()
            run.denoiser.step = step

    def masks(self) -> Tensor | None:
        try:
            return union_of(self.run.capture.read())
        except NothingSeen:
            return None
