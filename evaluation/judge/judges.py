"""Judges: a generator with its decoding settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vigc.errors import JudgeError
from vigc.inference import OpenAIGenerator, SamplingParams, TextGenerator, load_chat_model


@dataclass(frozen=True, slots=True)
class Judge:
    """A generator that reviews answers.

    Args:
        generator: Runs the rollouts, one per review.
        settings: Decoding settings of every request.
        described: Everything that determines the reviews: model, endpoint, decoding. It is stored with every review.
    """

    generator: TextGenerator
    settings: Mapping[str, Any]
    described: Mapping[str, Any]


def EndpointJudge(
    url: str,
    model: str,
    *,
    key_variable: str | None = None,
    temperature: float = 0.2,
    max_tokens: int = 1024,
    request: Mapping[str, Any] | None = None,
    **connection: Any,
) -> Judge:
    """A judge behind an OpenAI-compatible endpoint: OpenAI's, vLLM's, llama.cpp's, Ollama's and others.

    Args:
        url: The base URL, such as "http://localhost:8000/v1".
        model: Name of the model at the endpoint.
        key_variable: The environment variable with the key; None if no key is needed.
        temperature: 0.2, as in LLaVA's evaluation.
        max_tokens: Maximum number of tokens of a review.
        request: Further fields of the request; None removes a field, as in
            `{"max_tokens": None, "max_completion_tokens": 1024}`.
        connection: `workers`, `timeout`, `retries`, `wait`, `longest_wait`, see [`OpenAIGenerator`].

    Raises:
        JudgeError: The URL or key is invalid, or httpx2 is not installed.
    """
    settings = {"temperature": temperature, "max_new_tokens": max_tokens}
    generator = OpenAIGenerator(
        url, model, key_variable=key_variable, request=request, role="judge", error=JudgeError, **connection
    )
    fields = generator.fields(SamplingParams(settings))
    return Judge(generator, settings, {**fields, "model": model, "endpoint": generator.endpoint})


def LocalJudge(
    model: str | os.PathLike[str],
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    temperature: float = 0.0,
    max_tokens: int = 1024,
    trust_remote_code: bool = False,
) -> Judge:
    """A local chat model of transformers as a judge.

    Args:
        model: Folder or Hub name of a causal language model whose tokenizer has a chat template.
        revision: Commit, tag or branch on the Hub.
        dtype: "auto", "bfloat16", "float16" or "float32".
        device: "auto", "cpu", "cuda", ...
        temperature: 0 is greedy decoding, which is deterministic; LLaVA's evaluation uses 0.2.
        max_tokens: Maximum number of tokens of a review.
        trust_remote_code: Whether to run code in the model's folder.

    Raises:
        JudgeError: The model cannot be loaded, or has no chat template.
    """
    generator = load_chat_model(
        model,
        images=False,
        dtype=dtype,
        device=device,
        revision=revision,
        trust_remote_code=trust_remote_code,
        batch_size=1,
        error=JudgeError,
        role="judge",
    )
    sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0}
    version = revision or getattr(generator.model.config, "_commit_hash", None)
    described = {
        "model": os.fspath(model),
        "revision": version,
        "temperature": temperature,
        "max_tokens": max_tokens,
    }
    return Judge(generator, {**sampling, "max_new_tokens": max_tokens}, described)
