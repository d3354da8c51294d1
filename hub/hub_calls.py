"""Calls to the Hub that wait where waiting helps, and stop at once where it does not."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from huggingface_hub import get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)

from vigc.errors import PushError, TransientError, VigcError

Result = TypeVar("Result")

# httpx's or httpx2's, whichever huggingface_hub is built on: the base of its transport errors.
_HttpError = next(base for base in HfHubHTTPError.__bases__ if not issubclass(base, OSError))

_ATTEMPTS = 6
_MOST_SECONDS = 60.0  # between two attempts, where the Hub names no time
_LONGEST_WAIT = 900  # that the Hub may ask for; beyond, the command ends and says when to come back
_PASSING = (408, 409, 412, 425, 429)


@dataclass(frozen=True)
class _Trouble:
    """Why a call failed: what to say, how often to try, and how long the Hub asks to wait."""

    reason: str
    attempts: int = _ATTEMPTS
    wait: int | None = None


class Patience:
    """Repeats what failed for a passing reason.

    Args:
        token: As of `HfApi`; it is taken out of whatever is said.
        say: Is told in words what is waited for.
    """

    def __init__(self, token: str | None, say: Callable[[str], object]) -> None:
        self.token = token or get_token()
        self.say = say
        self.progress = 0  # who gets on may fail again as often

    def call(self, what: str, action: Callable[[], Result]) -> Result:
        """The result of `action`, which must do no harm when it is repeated after it succeeded unnoticed.

        Raises:
            PushError: It was refused.
            TransientError: It failed too often.
        """
        failures, progress = 0, self.progress
        while True:
            try:
                return action()
            except Exception as error:
                trouble = self._trouble(what, error)
            if self.progress > progress:
                failures, progress = 0, self.progress
            failures += 1
            wait = min(2.0 ** (failures - 1), _MOST_SECONDS) if trouble.wait is None else float(trouble.wait)
            if failures >= trouble.attempts or wait > _LONGEST_WAIT:
                later = f" It asks to wait {wait:.0f} s." if wait > _LONGEST_WAIT else ""
                raise TransientError(f"{trouble.reason} ({failures} times).{later} Try again later.")
            self.say(f"{trouble.reason}: trying again in {wait:.0f} s")
            time.sleep(wait)

    def _trouble(self, what: str, error: Exception) -> _Trouble:
        """Why a call failed, if that may pass; raises what to tell if it will not."""
        cause: BaseException = error
        while isinstance(cause, RuntimeError) and cause.__cause__ is not None:  # how an upload's errors are wrapped
            cause = cause.__cause__
        if isinstance(cause, HfHubHTTPError):
            return self._answered(what, cause)
        if isinstance(cause, LocalTokenNotFoundError):
            raise PushError("the Hub wants to know who you are: `hf auth login`, or set HF_TOKEN.") from None
        if isinstance(cause, OfflineModeIsEnabled):
            raise PushError("HF_HUB_OFFLINE is set, so that nothing can be pushed: unset it.") from None
        if isinstance(cause, HFValidationError):
            raise PushError(self._clean(f"the Hub has no such names: {cause}")) from None
        if isinstance(cause, json.JSONDecodeError):  # a proxy's page; its status is not known here
            return _Trouble(f"the Hub's answer to {what} was no JSON", attempts=2)
        if isinstance(cause, (_HttpError, ConnectionError, TimeoutError)):
            return _Trouble(self._clean(f"the connection to the Hub broke at {what} ({type(cause).__name__})"))
        if type(cause) is RuntimeError:  # what the Rust library behind Xet raises; a status is in its text at most
            text = self._clean(str(cause))
            if re.search(r"\b40[13]\b", text):
                raise PushError(f"the Hub refused {what}: {text}") from None
            return _Trouble(f"{what} failed ({text}; a server that knows no Xet needs HF_HUB_DISABLE_XET=1)")
        if isinstance(cause, ValueError) and not isinstance(cause, VigcError):  # metadata or hashes that are refused
            raise PushError(self._clean(f"the Hub could not take part of {what}: {cause}")) from None
        raise error

    def _answered(self, what: str, error: HfHubHTTPError) -> _Trouble:
        status = error.response.status_code
        words = f": {error.server_message}" if error.server_message else ""
        said = self._clean(f"{status}{words}")
        if status in (401, 403):
            raise PushError(
                f"the Hub refused {what} ({said}). Nothing here was changed. Check the name and that your token may "
                "write there (`hf auth login`, or HF_TOKEN)."
            ) from None
        if status in _PASSING or status >= 500:
            return _Trouble(f"the Hub answered {what} with {said}", wait=_retry_after(error))
        raise PushError(f"the Hub answered {what} with {said}.") from None

    def _clean(self, text: str) -> str:
        joined = " ".join(text.split())
        return joined.replace(self.token, "***") if self.token else joined


def _retry_after(error: HfHubHTTPError) -> int | None:
    """Seconds that the answer asks to wait; the Hub's own header for it ends in `t=<seconds>`."""
    headers = error.response.headers
    named = re.search(r"r=0;t=(\d+)", headers.get("ratelimit") or "")
    value = named[1] if named else (headers.get("Retry-After") or "").strip()
    return int(value) if value.isdigit() else None
