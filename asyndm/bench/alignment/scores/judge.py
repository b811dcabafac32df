"""Scores by a model that looks at the picture, on any OpenAI-compatible server.

The key is read from the environment (``ASYNDM_JUDGE_KEY``, else ``OPENAI_API_KEY``) and is never
written anywhere. Pictures leave this machine unless the server is on it.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
from typing import Any

from PIL import Image

from asyndm.core.settings import SettingsError

from .. import web
from .base import Absent, Options, Score, Value, hash_of, libraries

TEMPERATURE = 0.0
_RETRIES = 5  # after 503 and the like, each wait twice the last
_TIMEOUT = 120.0
_ATTEMPTS = 2  # at an answer that is nonsense
_LIKELY = 20  # tokens whose probabilities are asked for


class Judge:
    """One server and model."""

    def __init__(self, score: str, options: Options) -> None:
        if not options.server or not options.model:
            raise Absent(
                f"{score}: no server; give --judge URL and --judge-model NAME of an "
                "OpenAI-compatible server (its key in ASYNDM_JUDGE_KEY)."
            )
        if not options.server.startswith(("http://", "https://")):
            raise SettingsError(f"judge: {options.server!r} is no address; write http://.../v1.")
        import openai

        self.model, self.server, self._errors = options.model, options.server, openai.OpenAIError
        key = os.environ.get("ASYNDM_JUDGE_KEY") or os.environ.get("OPENAI_API_KEY") or "none"
        self.client = openai.OpenAI(
            base_url=options.server,
            api_key=key,
            max_retries=_RETRIES,
            timeout=_TIMEOUT,
            http_client=web.client(options.server, _TIMEOUT),
        )

    def ask(self, image: Image.Image, question: str, **more: Any) -> Any:
        """The first choice of the answer.

        Raises:
            SettingsError: the server does not answer, after a few tries.
        """
        out = io.BytesIO()
        image.convert("RGB").save(out, "PNG")
        url = "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
        content = [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": question},
        ]
        try:
            answer = self.client.chat.completions.create(
                model=self.model,
                temperature=TEMPERATURE,
                messages=[{"role": "user", "content": content}],
                **more,
            )
            return answer.choices[0]
        except self._errors as error:
            why = str(error).splitlines()[0]
            raise SettingsError(
                f"judge: {self.server} does not answer ({type(error).__name__}: {why:.100}); what "
                "was judged is kept, the same command goes on."
            ) from None
        except (AttributeError, IndexError, TypeError, ValueError):  # no chat completion at all
            return None


class _Judged(Score):
    batch = 1
    question = ""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.judge = Judge(self.name, options)

    def version(self):
        return {
            "server's model": self.judge.model,
            "question": self.question,
            "temperature": TEMPERATURE,
            **libraries("openai"),
        }

    def score(self, images, prompts):
        return [self._one(image, prompt.text) for image, prompt in zip(images, prompts)]

    def _one(self, image: Image.Image, prompt: str) -> Value:
        for _ in range(_ATTEMPTS):
            value = self.of(image, prompt)
            if value.value is not None:
                break
        return value

    def of(self, image: Image.Image, prompt: str) -> Value:
        raise NotImplementedError


class QwenScore(_Judged):
    """How well a picture fits its prompt, 0 to 10, by the judge's own word.

    The authors' question is not published; this is ours.
    """

    name, range = "qwenscore", (0.0, 10.0)
    question = (
        'How well does this image show "{prompt}"? Look at every object, its number, its colour, '
        "what it does and where it is. Answer with JSON: a short reason, and a score from 0 "
        "(nothing of it) to 10 (all of it)."
    )
    _schema = {
        "type": "json_schema",
        "json_schema": {
            "name": "judgement",
            "strict": True,
            "schema": {
                "type": "object",
                "properties": {"reason": {"type": "string"}, "score": {"type": "number"}},
                "required": ["reason", "score"],
                "additionalProperties": False,
            },
        },
    }

    def of(self, image, prompt):
        question = self.question.replace("{prompt}", prompt)
        choice = self.judge.ask(image, question, response_format=self._schema)
        text = _text(choice)
        try:
            answer = json.loads(text)
            value = float(answer["score"])
            reason = str(answer.get("reason", ""))[:400]
        except (ValueError, KeyError, TypeError, AttributeError):
            return Value(None, f"the judge's answer is no score: {text:.80}")
        if not 0 <= value <= 10:
            return Value(None, f"the judge's score is not within 0 and 10: {value:g}")
        return Value(value, reason)


class VqaScore(_Judged):
    """The probability of "yes" (Lin et al. 2024, 2404.01291), among yes and no."""

    name, range = "vqascore", (0.0, 1.0)
    question = 'Does this figure show "{prompt}"? Please answer yes or no.'

    def of(self, image, prompt):
        question = self.question.replace("{prompt}", prompt)
        choice = self.judge.ask(image, question, max_tokens=1, logprobs=True, top_logprobs=_LIKELY)
        try:
            likely = choice.logprobs.content[0].top_logprobs
            chances = [(one.token.strip().lower(), math.exp(one.logprob)) for one in likely]
        except (AttributeError, IndexError, TypeError):
            return Value(None, "the judge gives no probabilities (logprobs) of its answer")
        yes = sum(chance for word, chance in chances if word == "yes")
        no = sum(chance for word, chance in chances if word == "no")
        if yes + no <= 0:
            return Value(None, "neither yes nor no is among the judge's likely answers")
        return Value(yes / (yes + no), parts={"yes": yes, "no": no})


class BertScore(_Judged):
    """BERTScore between the judge's caption and the prompt, as DDPO has it (2305.13301).

    A caption is asked for once and compared with "The image contains ..." by the F1 of the
    weights' contextual embeddings (Zhang et al. 2020, 1904.09675).
    """

    name, range = "bertscore", (-1.0, 1.0)
    question = "Answer concisely: what is going on in this image?"

    def __init__(self, options: Options) -> None:
        super().__init__(options)

        self.path = options.path(self.name, self.name, "a BERT in transformers' layout")
        try:
            from transformers import AutoConfig

            config = AutoConfig.from_pretrained(self.path, local_files_only=True)
            self.layers = min(_LAYERS.get(config.model_type, 1000), config.num_hidden_layers)
            self._length = config.max_position_embeddings
        except Exception as error:
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise Absent(f"{self.name}: {self.path} cannot be loaded ({why:.120}).") from None

    def version(self):
        more = {"weights": hash_of(self.path), "layers": self.layers}
        return {**super().version(), **more, **libraries("torchmetrics", "transformers")}

    def of(self, image, prompt):
        caption = _text(self.judge.ask(image, self.question)).strip()
        if not caption:
            return Value(None, "the judge gave no caption")
        value = bert_f1(
            caption, f"The image contains {prompt}", self.path, self.layers, self._length
        )
        return Value(value, parts={"caption": caption[:400]})


# The layer that fits human judgement best, of the base sizes (the paper's table).
_LAYERS = {"bert": 9, "roberta": 10, "distilbert": 5}


def bert_f1(said: str, meant: str, path: Any, layers: int, length: int) -> float:
    """F1 of two sentences, without weights for rare words or rescaling."""
    from torchmetrics.functional.text.bert import bert_score

    values = bert_score(
        [said], [meant], model_name_or_path=str(path), num_layers=layers,
        max_length=min(length, 512), verbose=False, device="cpu",
    )  # fmt: skip
    return float(values["f1"])


def _text(choice: Any) -> str:
    return str(getattr(getattr(choice, "message", None), "content", None) or "")
