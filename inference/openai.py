"""Models behind an OpenAI-compatible endpoint: OpenAI, vLLM, llama.cpp, Ollama and others."""

from __future__ import annotations

import base64
import io
import os
import random
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from threading import Event
from typing import Any

from vigc.errors import GenerationError, RequestRefusedError, TransientError, VigcError, reason_of
from vigc.modeling_vigc.requests_vigc import Completion, Request, Rollout, SamplingParams
from vigc.processing.bounded_parsing import parse_json

from .generator import ModelIdentity, unsupported
from .scheduling import run_concurrently

_LONGEST_REPLY = 8 * 2**20  # bytes; far above the size of any normal reply
_TRANSIENT = frozenset((408, 409, 425, 429))
# Errors of a single request: too long, or against the provider's rules.
_REFUSALS = frozenset((400, 413, 422))
# Settings of transformers and their names in the API.
_FIELDS = {"temperature": "temperature", "top_p": "top_p", "max_new_tokens": "max_tokens"}


class OpenAIGenerator:
    """A model behind an endpoint, with several requests in flight.

    Transient errors (429, 5xx, timeouts, broken connections, replies that are not JSON) are retried with exponential
    backoff that respects `Retry-After`. Redirects are not followed, so that the key is sent to one host only. Texts are
    not stripped.

    Args:
        url: The base URL, such as "http://localhost:8000/v1".
        model: The model's name on the server.
        key_variable: The environment variable with the API key; None without a key. The key is neither printed nor
            stored.
        request: Additional fields of every request; None removes a field, as in
            `{"max_tokens": None, "max_completion_tokens": 1024}`.
        workers: Number of requests in flight.
        timeout: Maximum seconds until a reply is complete.
        retries: Maximum number of retries of a request.
        wait: Seconds before the first retry.
        longest_wait: Maximum seconds between two retries; an endpoint that asks for more counts as unavailable.
        role: Name of the model in messages.
        error: Class of the errors for invalid settings.

    Raises:
        VigcError: `error`: the URL or key is invalid, or httpx2 is not installed.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key_variable: str | None = None,
        request: Mapping[str, Any] | None = None,
        workers: int = 4,
        timeout: float = 300.0,
        retries: int = 6,
        wait: float = 1.0,
        longest_wait: float = 120.0,
        role: str = "model",
        error: type[VigcError] = GenerationError,
    ) -> None:
        self._role, self._error = role, error
        try:
            import httpx2
        except ImportError as missing:
            raise error(
                f"a {role} behind an endpoint needs {missing.name} (Python 3.11 or newer): pip install 'vigc[judge]'."
            ) from missing
        self._failures = (httpx2.TransportError, httpx2.DecodingError)
        self._url, self.endpoint = self._chat_url(httpx2, url)
        self._key = self._read_key(key_variable)
        headers = {"Accept-Encoding": "identity", **({"Authorization": f"Bearer {self._key}"} if self._key else {})}
        self._client = httpx2.Client(headers=headers, timeout=timeout, follow_redirects=False)
        weakref.finalize(self, self._client.close)
        self._model, self._request = model, dict(request or {})
        self._workers = workers
        self._timeout, self._retries, self._wait, self._longest_wait = timeout, retries, wait, longest_wait

    @property
    def identity(self) -> ModelIdentity:
        """The served name and the abilities; equal requests may have different completions."""
        return ModelIdentity(self._model, kind="openai", deterministic=False, prefix=False, logprobs=False)

    def encode(self, image: Any) -> str:
        """Encodes the image once as a `data:` URL (PNG)."""
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"

    def run(self, rollouts: Iterable[Rollout | None]) -> Iterator[Any]:
        """See [`TextGenerator.run`]. Rollouts run in the caller's thread, requests in `workers` threads.

        A `RequestRefusedError` is raised inside a rollout whose request is refused.

        Raises:
            TransientError: The endpoint is unavailable after all retries.
            VigcError: `error`: the endpoint rejects all requests, for instance because of the key.
        """
        return run_concurrently(rollouts, self._complete, self._workers)

    def fields(self, sampling: SamplingParams) -> dict[str, Any]:
        """The fields of a request, without messages and seed.

        Raises:
            VigcError: `error`: the API has no such setting.
        """
        given = {name: value for name, value in sampling.settings.items() if value is not None}
        if given.pop("do_sample", True) is False:
            given["temperature"] = 0
        if unknown := [name for name in given if name not in _FIELDS]:
            raise self._error(f"{', '.join(unknown)} is not supported by an endpoint: use {', '.join(_FIELDS)}.")
        named = {_FIELDS[name]: given[name] for name in _FIELDS if name in given}
        fields = {"model": self._model, **named, **self._request}
        return {name: value for name, value in fields.items() if value is not None}

    def _complete(self, request: Request, stop: Event) -> Completion:
        """The completion of a request; `stop` interrupts the wait before a retry."""
        body = {**self.fields(request.sampling), "messages": self._messages(request)}
        if "seed" not in self._request:
            body["seed"] = request.sampling.seed
        reason = ""
        for attempt in range(self._retries + 1):
            asked = 0.0
            try:
                status, headers, data = self._post(body)
            except self._failures as error:
                reason = f"{type(error).__name__}: {self._shown(str(error))}"
            else:
                if status == 200:
                    completion, reason = self._read(data)
                    if completion is not None:
                        return _cut(completion, request)
                elif status in _TRANSIENT or status >= 500:
                    reason, asked = f"status {status}: {self._shown(data)}", _retry_after(headers)
                else:
                    self._refuse(status, data)
            pause = max(asked, min(self._longest_wait, self._wait * 2**attempt) * random.uniform(0.75, 1.25))
            if asked > self._longest_wait:
                reason += f", and it asks to wait {asked:,.0f} s"
                break
            if attempt < self._retries and stop.wait(pause):
                break
        raise TransientError(f"the {self._role} at {self.endpoint} is unavailable ({reason}): try again later.")

    def _messages(self, request: Request) -> list[dict[str, Any]]:
        if what := unsupported(self.identity, request):
            raise self._error(f"the {self._role} at {self.endpoint} does not support this: {what}. Use another model.")
        system = [] if request.system is None else [{"role": "system", "content": request.system}]
        content: Any = request.prompt
        if request.images:
            urls = [image if isinstance(image, str) else self.encode(image) for image in request.images]
            content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
            content.append({"type": "text", "text": request.prompt})
        return [*system, {"role": "user", "content": content}]

    def _post(self, body: dict[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of the reply; limits its time and its size."""
        end, data = time.monotonic() + self._timeout, bytearray()
        with self._client.stream("POST", self._url, json=body) as response:
            if (packed := response.headers.get("content-encoding", "identity")) not in ("identity", "gzip", "deflate"):
                raise self._failures[0](f"a reply packed by {packed!r}, which may unpack to any size")
            for part in response.iter_bytes():
                data += part
                if len(data) > _LONGEST_REPLY:
                    raise self._failures[0](f"a reply of more than {_LONGEST_REPLY:,} bytes")
                if time.monotonic() > end:
                    raise self._failures[0](f"no whole reply within {self._timeout:g} s")
            return response.status_code, response.headers, bytes(data)

    def _read(self, data: bytes) -> tuple[Completion | None, str]:
        """The completion in a reply, or None and the error."""
        try:
            value = parse_json(data)
            choice = value["choices"][0]
            text = choice["message"]["content"]
            if text is not None and not isinstance(text, str):
                raise TypeError("content")
        except (ValueError, LookupError, TypeError):
            return None, f"a reply that is no chat completion: {self._shown(data)}"
        finish = choice.get("finish_reason")
        if finish == "content_filter" and not text:
            raise RequestRefusedError("the endpoint's content filter")
        served = " ".join(str(value[name])[:200] for name in ("model", "system_fingerprint") if value.get(name))
        finish = str(finish or "")
        return Completion(text or "", "eos" if finish == "stop" else finish, served_by=served or None), ""

    def _refuse(self, status: int, data: bytes) -> None:
        said = f"status {status}: {self._shown(data)}"
        if status in _REFUSALS:
            raise RequestRefusedError(said)
        raise self._error(
            f"the {self._role} at {self.endpoint} refuses ({said}): check its URL, the model's name and the key."
        )

    def _shown(self, said: bytes | str) -> str:
        """The beginning of a server's message, on one line and without the key."""
        text = said if isinstance(said, str) else said.decode("utf-8", errors="replace")
        text = text.replace(self._key, "[key]") if self._key else text
        text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
        return text if len(text) <= 200 else f"{text[:200]}..."

    def _chat_url(self, httpx2: Any, url: str) -> tuple[Any, str]:
        """The URL of requests, and a form without secrets for messages."""
        what = f"the {self._role}'s URL"
        try:
            parsed = httpx2.URL(url)
        except httpx2.InvalidURL as error:
            raise self._error(
                f"{what} cannot be read ({reason_of(error, path=False)}): give one like http://localhost:8000/v1."
            ) from None
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise self._error(f"{what} {url!r} is not an http or https URL: give one like http://localhost:8000/v1.")
        if parsed.userinfo:
            raise self._error(f"{what} holds a password: put the key into an environment variable and name that.")
        path = parsed.path.rstrip("/")
        path = path if path.endswith("/chat/completions") else f"{path}/chat/completions"
        return parsed.copy_with(path=path), str(parsed.copy_with(query=None, fragment=None))

    def _read_key(self, variable: str | None) -> str | None:
        if variable is None:
            return None
        key = os.environ.get(variable, "").strip()
        what = f"the environment variable {variable!r}"
        if not key:
            raise self._error(f"{what}, which should hold the {self._role}'s key, is empty.")
        if not (key.isascii() and key.isprintable()):
            raise self._error(f"{what} holds characters that no key has: set it again.")
        return key


def _cut(completion: Completion, request: Request) -> Completion:
    """Cuts the completion at the end that the request's stop rule finds."""
    end = None if request.stop is None else request.stop.end(completion.text, complete=True)
    if end is not None:
        completion.text, completion.finish_reason = completion.text[:end], "unit"
    return completion


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds in `Retry-After`; 0 without the header."""
    value = headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(timezone.utc)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
