"""Running WebUIs with the extension, by their API; several addresses share the work.

The login is read from the environment (``ASYNDM_WEBUI_LOGIN``, ``user:password``) and is never
written anywhere.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any

import httpx
from PIL import Image

from asyndm.core.settings import SettingsError

from .. import web
from ..methods import Method
from ..prompt_sets import Prompt
from .base import CANNOT_TELL, Backend, Drawn, Job, Setup

_EACH = 4  # pictures an address and batch
_WAIT = 1800.0  # seconds for a picture
_CFG, _SIDE = 7.0, 512
_MEASURED = re.compile(r"AsynDM measured: \"?(\d+) rows(?:, w_eff ([-\d.e+]+))?")


class WebUI(Backend):
    """Draws by ``txt2img`` of every address.

    Args:
        where: addresses, separated by commas.

    Raises:
        SettingsError: one does not answer, lacks the extension, or has another checkpoint.
    """

    def __init__(self, where: str, setup: Setup) -> None:
        self.addresses = [one.strip().rstrip("/") for one in where.split(",") if one.strip()]
        if not self.addresses or not all(one.startswith("http") for one in self.addresses):
            raise SettingsError("backend: write webui:http://127.0.0.1:7860[,http://...].")
        if setup.precision != "float32":
            raise SettingsError("precision: it is the WebUI's own; leave it out.")
        login = os.environ.get("ASYNDM_WEBUI_LOGIN", "")
        name, _, password = login.partition(":")
        self._login = (name, password) if login else None
        self._clients = {url: web.client(url, _WAIT) for url in self.addresses}
        self.setup = replace(
            setup,
            cfg=_CFG if setup.cfg is None else setup.cfg,
            rule=setup.rule or "Euler a",
            schedule=setup.schedule or "Automatic",
            size=setup.size or (_SIDE, _SIDE),
        )
        self.batch = _EACH * len(self.addresses)
        models = {url: self._model(url) for url in self.addresses}
        self.model = models[self.addresses[0]]
        for url, model in models.items():
            if model != self.model:
                raise SettingsError(
                    f"backend: {url} has {model['checkpoint']}, {self.addresses[0]} has "
                    f"{self.model['checkpoint']}; load the same checkpoint in all."
                )

    def _ask(self, url: str, path: str, payload: dict[str, Any] | None = None) -> Any:
        """The answer of one request.

        Raises:
            SettingsError: none, or a refusal, in one line.
        """
        verb = "GET" if payload is None else "POST"
        try:
            answer = self._clients[url].request(
                verb, f"{url}/sdapi/v1/{path}", json=payload, auth=self._login
            )
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            raise Dead(f"backend: {url} does not answer ({why:.100}).") from None
        if answer.status_code == 401:
            raise SettingsError(
                f"backend: {url} wants a login; set ASYNDM_WEBUI_LOGIN=user:password."
            )
        if answer.status_code == 404:
            raise SettingsError(f"backend: {url} has no API; start the WebUI with --api.")
        try:
            value = answer.json()
        except ValueError:
            raise Dead(f"backend: {url} answered no JSON (status {answer.status_code}).") from None
        if answer.status_code >= 400:
            detail = value.get("detail") or value.get("errors") or value.get("error") or ""
            text = f"backend: {url} refused ({answer.status_code} {str(detail):.160})."
            raise (Dead if answer.status_code >= 500 else SettingsError)(text)
        return value

    def _model(self, url: str) -> dict[str, Any]:
        options = self._ask(url, "options")
        scripts = self._ask(url, "scripts").get("txt2img", [])
        if "asyndm" not in scripts:
            raise SettingsError(f"backend: {url} has no AsynDM; install the extension there.")
        samplers = {one["name"] for one in self._ask(url, "samplers")}
        if self.setup.rule not in samplers:
            raise SettingsError(
                f"rule: {self.setup.rule!r} is no sampler of {url}; {', '.join(sorted(samplers))}."
            )
        return {
            "checkpoint": str(options.get("sd_model_checkpoint")),
            "hash": str(options.get("sd_checkpoint_hash")),
        }

    def identity(self) -> dict[str, Any]:
        return {"backend": "webui", **self.model}

    def check(self, methods: list[Method], prompts: list[Prompt]) -> None:
        for method in methods:
            if method.clock == "oracle":
                raise SettingsError("methods: oracle is the embedded model's; leave it out.")
            if method.rule is not None:
                raise SettingsError(CANNOT_TELL)
            if method.grid is not None:
                raise SettingsError(f"methods: {method.text}: a WebUI has no grid; leave it out.")

    def payload(self, job: Job) -> dict[str, Any]:
        """The request of one picture."""
        method, setup = job.method, self.setup
        settings = method.settings_for(job.prompt.text).changed()
        settings = {k: v for k, v in settings.items() if k != "enabled"}
        clock = {"clock": method.clock} if method.clock != "asynchronous" else {}
        asked = {"enabled": not method.plain, **({} if method.plain else {**settings, **clock})}
        width, height = setup.size
        return {
            "prompt": job.prompt.text,
            "seed": job.seed,
            "steps": setup.steps if method.steps is None else method.steps,
            "cfg_scale": setup.cfg if method.w is None else method.w,
            "sampler_name": setup.rule,
            "scheduler": setup.schedule,
            "width": width,
            "height": height,
            "send_images": True,
            "save_images": False,
            "alwayson_scripts": {"AsynDM": {"args": [asked]}},
        }

    def draw(self, jobs: list[Job]) -> list[Drawn]:
        waiting: SimpleQueue[int] = SimpleQueue()
        for index in range(len(jobs)):
            waiting.put(index)
        made: dict[int, Drawn] = {}

        def work(url: str) -> SettingsError | None:
            while True:
                try:
                    index = waiting.get_nowait()
                except Empty:
                    return None
                try:
                    made[index] = self._one(url, jobs[index])
                except Dead as error:  # another address draws it
                    waiting.put(index)
                    return error

        while len(made) < len(jobs):
            with ThreadPoolExecutor(len(self.addresses)) as pool:
                died = dict(zip(self.addresses, pool.map(work, self.addresses)))
            self.addresses = [url for url, error in died.items() if error is None]
            if not self.addresses:
                error = next(iter(died.values()))
                raise SettingsError(f"{error} What is drawn stays; the same command goes on.")
        return [made[index] for index in range(len(jobs))]

    def _one(self, url: str, job: Job) -> Drawn:
        start = time.perf_counter()
        answer = self._ask(url, "txt2img", self.payload(job))
        seconds = time.perf_counter() - start
        try:
            content = base64.b64decode(answer["images"][0].rpartition(",")[2])
            with Image.open(io.BytesIO(content)) as opened:
                image = opened.convert("RGB")
            info = json.loads(answer.get("info") or "{}")
        except (KeyError, IndexError, TypeError, ValueError, OSError):
            raise Dead(f"backend: {url} sent no picture.") from None
        return self._read(job.method, image, info, seconds)

    def _read(self, method: Method, image: Image.Image, info: dict, seconds: float) -> Drawn:
        text = "\n".join(map(str, info.get("infotexts") or []))
        found = _MEASURED.search(text)
        note = (info.get("extra_generation_params") or {}).get("AsynDM note")
        w = self.setup.cfg if method.w is None else method.w
        rows = int(found.group(1)) if found else None
        w_eff = float(found.group(2)) if found and found.group(2) else None
        if w_eff is None and not method.zigzags and method.settings.guidance == "cfg":
            w_eff = w
        return Drawn(image, rows, seconds, w_eff, (str(note),) if note else ())


class Dead(SettingsError):
    """An address that draws no more."""
