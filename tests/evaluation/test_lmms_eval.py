"""VIGC in lmms-eval: the entry point, and answers to requests as the harness makes them."""

import sys
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType, SimpleNamespace

import pytest
from PIL import Image

from vigc.errors import EvaluationError
from vigc.evaluation import lmms_eval as harness
from vigc.scenes import VIGC_TINY

QUESTION = "What can you see in the picture?"


@pytest.fixture(scope="module")
def installed():
    """lmms-eval or, where it is not installed, the two classes of it that are touched."""
    try:
        import_module("lmms_eval.api.model")
        yield
        return
    except ImportError:
        pass
    names = ("lmms_eval", "lmms_eval.api", "lmms_eval.api.model", "lmms_eval.models", "lmms_eval.models.registry_v2")
    modules = {name: ModuleType(name) for name in names}

    class Base:
        def __init__(self):
            self._rank, self._world_size, self.task_dict = 0, 1, {}

    modules["lmms_eval.api.model"].lmms = Base
    modules["lmms_eval.models.registry_v2"].ModelManifest = SimpleNamespace
    with pytest.MonkeyPatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        yield
    harness._model_class.cache_clear()


@pytest.fixture(scope="module")
def model(installed):
    return harness.VigcForLmmsEval(str(VIGC_TINY), batch_size=3, max_batch_size=None, device="cpu", iqf_steps=1)


def requests(model, *settings, images=1):
    pictures = [Image.new("RGB", (96, 96), color) for color in ("red", "green", "blue", "white")]
    model.task_dict = {"task": {"test": [{"image": picture} for picture in pictures]}}
    return [
        SimpleNamespace(
            args=(f"<image>\n{QUESTION}", wanted, lambda doc: [doc["image"]] * images, number, "task", "test")
        )
        for number, wanted in enumerate(settings)
    ]


def test_the_entry_point_leads_to_the_class(installed):
    (entry,) = entry_points(group="lmms_eval.models", name="vigc")
    module, name = entry.value.split(":")
    found = getattr(import_module(module), name)()
    module, name = found.simple_class_path.rsplit(".", 1)
    assert found.model_id == "vigc" and getattr(import_module(module), name).is_simple


def test_requests_are_answered_in_their_order_with_their_settings(model):
    """A batch may hold tasks with other settings; each answer is what the request alone would get."""
    wanted = [
        {"max_new_tokens": 8},
        {"max_new_tokens": 8},
        {"max_new_tokens": 24, "until": ["."], "temperature": 0},
        {},
    ]
    asked = requests(model, *wanted)
    texts = model.generate_until(asked)
    assert texts == [model.generate_until([request])[0] for request in asked]
    assert len(texts[0].split()) <= 8 and "." not in texts[2] and texts[3].endswith(".")
    assert model.answerer.settings["iqf_steps"] == 1


def test_what_vigc_cannot_do_is_said(model):
    with pytest.raises(EvaluationError, match="has 2 images, but VIGC reads only one"):
        model.generate_until(requests(model, {}, images=2))
    with pytest.raises(NotImplementedError, match="compares likelihoods"):
        model.loglikelihood([])
    with pytest.raises(NotImplementedError, match="several rounds"):
        model.generate_until_multi_round([])
    with pytest.raises(AttributeError, match="has no attribute 'Other'"):
        harness.Other  # noqa: B018
