"""VIGC as a model of lmms-eval, which finds it by this package's entry points.

`lmms-eval --model vigc --model_args pretrained=vigc-7b --tasks pope --batch_size 8`
"""

from __future__ import annotations

from functools import cache
from typing import Any

from vigc.errors import EvaluationError
from vigc.evaluation.benchmarks.base import Question

from .answering import load_answerer

# Generation settings of lmms-eval's tasks that are passed on.
_DECODING = ("max_new_tokens", "num_beams")
_SAMPLING = ("temperature", "top_p")
_MOST_TOKENS = 512


def manifest() -> Any:
    """The entry for lmms-eval's registry: the name and the path of the class."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="vigc", simple_class_path=f"{__name__}.VigcForLmmsEval")


def __getattr__(name: str) -> Any:
    # The class derives from a class of lmms-eval, which is only imported on demand.
    if name == "VigcForLmmsEval":
        return _model_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class Answers:
    """Answers with VIC in lmms-eval. InstructBLIP and chat models work as well.

    Args:
        pretrained: Folder or Hub name.
        batch_size: Number of questions per batch.
        device: "auto", "cpu", "cuda:0", ...
        dtype: "auto", "float32", "bfloat16" or "float16".
        correct: Whether VIC answers sentence by sentence; by default for VIGC.
        trust_remote_code: Whether to run code in the model's folder.
        settings: Additional arguments of `generate`, such as `iqf_steps`.
    """

    is_simple = True
    task_dict: dict[str, Any]  # lmms-eval's datasets, by task and split

    def __init__(
        self,
        pretrained: str,
        batch_size: int | str = 1,
        device: str | None = None,
        dtype: str = "auto",
        correct: bool | None = None,
        trust_remote_code: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__()
        settings.pop("max_batch_size", None)  # lmms-eval passes it to every model
        self.batch_size = int(batch_size)
        self.answerer = load_answerer(
            pretrained,
            settings=settings,
            correct=correct,
            dtype=dtype,
            device=device or "auto",
            trust_remote_code=trust_remote_code,
        )

    def generate_until(self, requests: list[Any]) -> list[str]:
        """The answers to the requests, in their order."""
        texts: list[str] = []
        for start in range(0, len(requests), self.batch_size):
            batch = [request.args for request in requests[start : start + self.batch_size]]
            for chosen in _alike(batch):
                texts += self._answer(chosen)
        return texts

    def _answer(self, batch: list[tuple[Any, ...]]) -> list[str]:
        images, questions = [], []
        for context, _, to_visual, number, task, split in batch:
            visuals = to_visual(self.task_dict[task][split][number])
            if len(visuals) != 1:
                raise EvaluationError(f"{task}, {number}: has {len(visuals)} images, but VIGC reads only one.")
            text = context.replace("<image>", "").strip()
            images.append(visuals[0].convert("RGB"))
            questions.append(Question(str(number), str(number), None, task, text, text, None, {}))
        wanted = batch[0][1]
        answerer = self.answerer.with_settings(**_settings(wanted))
        return [_until(text, wanted.get("until") or []) for text in answerer.answer(images, questions)]

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Not supported: a corrected answer has no likelihood."""
        raise NotImplementedError("VIGC only supports tasks that generate text; this task compares likelihoods.")

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        """Not supported: VIC answers a single question."""
        raise NotImplementedError("VIGC answers a single question; this task has several rounds.")


@cache
def _model_class() -> type:
    from lmms_eval.api.model import lmms

    class VigcForLmmsEval(Answers, lmms):
        """[`Answers`] as a model of lmms-eval."""

    return VigcForLmmsEval


def _alike(batch: list[tuple[Any, ...]]) -> list[list[tuple[Any, ...]]]:
    """Splits a batch into runs with equal decoding settings."""
    parts: list[list[tuple[Any, ...]]] = []
    for row in batch:
        if parts and parts[-1][0][1] == row[1]:
            parts[-1].append(row)
        else:
            parts.append([row])
    return parts


def _settings(wanted: dict[str, Any]) -> dict[str, Any]:
    """A task's settings as arguments of `generate`; a temperature of 0 means greedy decoding."""
    found = {name: wanted[name] for name in _DECODING if wanted.get(name)}
    if wanted.get("temperature"):
        found |= {"do_sample": True, **{name: wanted[name] for name in _SAMPLING if wanted.get(name)}}
    return {"max_new_tokens": _MOST_TOKENS, **found}


def _until(text: str, stops: list[str] | str) -> str:
    """The text up to the first of the task's stop strings."""
    for stop in [stops] if isinstance(stops, str) else stops:
        text = text.split(stop)[0] if stop else text
    return text.strip()
