"""Who judges: a chat model behind an OpenAI-compatible endpoint, or one of transformers on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from threading import Event
from typing import Any, Protocol

from vigc.errors import JudgeError, RequestRefusedError, TransientError, reason_of
from vigc.processing.bounded_parsing import parse_json
from vigc.scenes import model_folder

_LONGEST_REPLY = 8 * 2**20  # bytes; a review has a few thousand
_TRANSIENT = frozenset((408, 409, 425, 429))
# What one request can be refused for: too long, or against the provider's rules.
_REFUSALS = frozenset((400, 413, 422))


@dataclass(frozen=True, slots=True)
class Reply:
    """What a judge said.

    Args:
        text: Its review.
        finish: Why it ended: "stop", "length", "content_filter", ...
        served_by: What the endpoint says it is: model and version.
    """

    text: str
    finish: str | None = None
    served_by: str | None = None


class Judge(Protocol):
    """A chat model that reviews."""

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides what it says: model, where it runs, decoding. It is stored with every review."""

    @property
    def workers(self) -> int:
        """How many requests it takes at a time."""

    def reply(self, messages: list[dict[str, str]], seed: int, stop: Event) -> Reply:
        """Its reply to a system and a user turn; `stop` ends waiting.

        Raises:
            RequestRefusedError: This request is not taken.
            TransientError: The judge is away, and repetition did not help.
            JudgeError: No request like this will ever be taken.
        """


class EndpointJudge:
    """A model behind an OpenAI-compatible endpoint: OpenAI's, vLLM's, llama.cpp's, Ollama's and others.

    What passes (429, 5xx, time-outs, broken connections, replies that are no JSON) is tried again, with waits that
    double and never shorter than `Retry-After` asks. Redirections are not followed: the key goes to one place.

    Args:
        url: Its base, such as "http://localhost:8000/v1".
        model: The model's name there.
        key_variable: The environment variable that holds the key; None where no key is needed. The key is neither
            printed nor stored.
        temperature: 0.2, as in LLaVA's evaluation.
        max_tokens: Longest review.
        request: Further fields of the request; None takes a field away, as in
            `{"max_tokens": None, "max_completion_tokens": 1024}`.
        workers: Requests at a time.
        timeout: Seconds until a reply is complete.
        retries: How often a request is repeated.
        wait: Seconds before the first repetition.
        longest_wait: At most so many seconds between two; an endpoint that asks for more counts as away.

    Raises:
        JudgeError: A URL or key that cannot be used, or httpx2 is not installed.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key_variable: str | None = None,
        temperature: float = 0.2,
        max_tokens: int = 1024,
        request: Mapping[str, Any] | None = None,
        workers: int = 4,
        timeout: float = 300.0,
        retries: int = 6,
        wait: float = 1.0,
        longest_wait: float = 120.0,
    ) -> None:
        try:
            import httpx2
        except ImportError as error:
            raise JudgeError(
                f"a judge behind an endpoint needs {error.name} (Python 3.11 or newer): pip install 'vigc[judge]'."
            ) from error
        self._errors = (httpx2.TransportError, httpx2.DecodingError)
        self._url, shown = _chat_url(httpx2, url)
        self._key = _key(key_variable)
        headers = {"Accept-Encoding": "identity", **({"Authorization": f"Bearer {self._key}"} if self._key else {})}
        self._client = httpx2.Client(headers=headers, timeout=timeout, follow_redirects=False)
        weakref.finalize(self, self._client.close)
        fields = {"model": model, "temperature": temperature, "max_tokens": max_tokens, **(request or {})}
        self._fields = {name: value for name, value in fields.items() if value is not None}
        self._seeded = "seed" not in (request or {})
        self.workers = workers
        self._timeout, self._retries, self._wait, self._longest_wait = timeout, retries, wait, longest_wait
        self._identity = {**self._fields, "model": model, "endpoint": shown}

    @property
    def identity(self) -> dict[str, Any]:
        """The fields of its requests, and where they go."""
        return self._identity

    def reply(self, messages: list[dict[str, str]], seed: int, stop: Event) -> Reply:
        """See [`Judge.reply`]."""
        body = {**self._fields, "messages": messages, **({"seed": seed} if self._seeded else {})}
        reason = ""
        for attempt in range(self._retries + 1):
            asked = 0.0
            try:
                status, headers, data = self._post(body)
            except self._errors as error:
                reason = f"{type(error).__name__}: {self._shown(str(error))}"
            else:
                if status == 200:
                    reply, reason = self._read(data)
                    if reply is not None:
                        return reply
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
        raise TransientError(f"the judge at {self._identity['endpoint']} is away ({reason}): try again later.")

    def _post(self, body: dict[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of the reply, which is given up when it takes too long or has no end."""
        end, data = time.monotonic() + self._timeout, bytearray()
        with self._client.stream("POST", self._url, json=body) as response:
            if (packed := response.headers.get("content-encoding", "identity")) not in ("identity", "gzip", "deflate"):
                raise self._errors[0](f"a reply packed by {packed!r}, which may unpack to any size")
            for part in response.iter_bytes():
                data += part
                if len(data) > _LONGEST_REPLY:
                    raise self._errors[0](f"a reply of more than {_LONGEST_REPLY:,} bytes")
                if time.monotonic() > end:
                    raise self._errors[0](f"no whole reply within {self._timeout:g} s")
            return response.status_code, response.headers, bytes(data)

    def _read(self, data: bytes) -> tuple[Reply | None, str]:
        """The review in a reply, or what is wrong with the reply."""
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
        return Reply(text or "", finish, served or None), ""

    def _refuse(self, status: int, data: bytes) -> None:
        said = f"status {status}: {self._shown(data)}"
        if status in _REFUSALS:
            raise RequestRefusedError(said)
        raise JudgeError(
            f"the judge at {self._identity['endpoint']} refuses ({said}): check its URL, the model's name and the key."
        )

    def _shown(self, said: bytes | str) -> str:
        """The beginning of what a server said, on one line and without the key."""
        text = said if isinstance(said, str) else said.decode("utf-8", errors="replace")
        text = text.replace(self._key, "[key]") if self._key else text
        text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
        return text if len(text) <= 200 else f"{text[:200]}..."


def _chat_url(httpx2: Any, url: str) -> tuple[Any, str]:
    """Where requests go, and what of it can be shown."""
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise JudgeError(
            f"the judge's URL cannot be read ({reason_of(error, path=False)}): give one like http://localhost:8000/v1."
        ) from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise JudgeError(f"the judge's URL {url!r} is not of the web: give one like http://localhost:8000/v1.")
    if parsed.userinfo:
        raise JudgeError("the judge's URL holds a password: put the key into an environment variable and name that.")
    path = parsed.path.rstrip("/")
    path = path if path.endswith("/chat/completions") else f"{path}/chat/completions"
    return parsed.copy_with(path=path), str(parsed.copy_with(query=None, fragment=None))


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise JudgeError(f"the environment variable {variable!r}, which should hold the judge's key, is empty.")
    if not (key.isascii() and key.isprintable()):
        raise JudgeError(f"the environment variable {variable!r} holds characters that no key has: set it again.")
    return key


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a server asks to wait; 0 if it does not say."""
    value = headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(timezone.utc)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


class LocalJudge:
    """A chat model of transformers on this machine.

    Args:
        model: Folder or Hub name of a causal language model whose tokenizer has a chat template.
        revision: Which version of it, on the Hub.
        dtype: "auto", "bfloat16", "float16" or "float32".
        device: "auto", "cpu", "cuda", ...
        temperature: 0 is greedy decoding, the same review every time; LLaVA's evaluation had 0.2.
        max_tokens: Longest review.
        trust_remote_code: Run the model's own code, if it brings some.

    Raises:
        JudgeError: The model cannot be loaded, or has no chat template.
    """

    workers = 1

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        revision: str | None = None,
        dtype: str = "auto",
        device: str = "auto",
        temperature: float = 0.0,
        max_tokens: int = 1024,
        trust_remote_code: bool = False,
    ) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from vigc.processing.devices import find_device
        from vigc.processing.model_folder import loading_model

        name, folder = os.fspath(model), model_folder(model)
        origin = {"revision": revision, "trust_remote_code": trust_remote_code}
        place = find_device(device, JudgeError)
        with loading_model(name, JudgeError, " as a causal language model"):
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, **origin)  # nosec B615: by `revision`
            loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **origin)  # nosec B615: by `revision`
        if not self._tokenizer.chat_template:
            raise JudgeError(f"the judge {name!r} has no chat template: give a chat model.")
        self._model = loaded.eval().to(place)
        self._room = getattr(loaded.config, "max_position_embeddings", None)
        self._temperature, self._max_tokens = temperature, max_tokens
        version = revision or getattr(loaded.config, "_commit_hash", None)
        self._identity = {"model": name, "revision": version, "temperature": temperature, "max_tokens": max_tokens}

    @property
    def identity(self) -> dict[str, Any]:
        """Model, version and decoding."""
        return self._identity

    def reply(self, messages: list[dict[str, str]], seed: int, stop: Event) -> Reply:
        """See [`Judge.reply`]; the seed counts together with the text, in whatever order requests come."""
        import torch

        given = self._tokens([{**turn, "content": self._plain(turn["content"])} for turn in messages])
        length = given["input_ids"].shape[1]
        if self._room is not None and length + self._max_tokens > self._room:
            raise RequestRefusedError(
                f"{length:,} tokens and a review of {self._max_tokens:,} exceed its {self._room:,}"
            )
        sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if self._temperature > 0:
            sampling = {"do_sample": True, "temperature": self._temperature, "top_p": 1.0, "top_k": 0}
        digest = hashlib.sha256(f"{seed}/{json.dumps(messages)}".encode()).digest()
        pad = self._tokenizer.pad_token_id
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(int.from_bytes(digest[:7], "big"))
            written = self._model.generate(
                **given,
                **sampling,
                max_new_tokens=self._max_tokens,
                pad_token_id=self._tokenizer.eos_token_id if pad is None else pad,
            )[0, length:]
        text = self._tokenizer.decode(written, skip_special_tokens=True)
        return Reply(text, "length" if len(written) == self._max_tokens else "stop")

    def _tokens(self, messages: list[dict[str, str]]) -> Any:
        from jinja2 import TemplateError

        settings = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
        try:
            tokens = self._tokenizer.apply_chat_template(messages, **settings)
        except TemplateError:  # some templates know no system turn
            joined = "\n\n".join(turn["content"] for turn in messages)
            tokens = self._tokenizer.apply_chat_template([{"role": "user", "content": joined}], **settings)
        return tokens.to(self._model.device)

    def _plain(self, text: str) -> str:
        """Text in which nothing is a special token of this model, which would end the user's turn."""
        for token in self._tokenizer.all_special_tokens:
            if len(token) > 1:
                text = text.replace(token, f"{token[0]} {token[1:]}")
        return text
