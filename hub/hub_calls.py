"""Calls to the Hub with retries: transient errors are retried after a wait, others are raised at once."""

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

# The base class of transport errors, of httpx or httpx2: whichever huggingface_hub uses.
_HttpError = next(base for base in HfHubHTTPError.__bases__ if not issubclass(base, OSError))

_ATTEMPTS = 6
_MOST_SECONDS = 60.0  # between two attempts, if the Hub does not specify a time
_LONGEST_WAIT = 900  # seconds; if the Hub asks for a longer wait, the command ends and reports it
_TRANSIENT = (408, 409, 412, 425, 429)


@dataclass(frozen=True)
class _Failure:
    """A transient failure of a call: its reason, the number of attempts, and the seconds that the Hub asks to wait."""

    reason: str
    attempts: int = _ATTEMPTS
    wait: int | None = None


class Patience:
    """Retries calls that fail with a transient error.

    Args:
        token: The token, as in `HfApi`. It is masked in all messages.
        say: Called with a message before each wait.
    """

    def __init__(self, token: str | None, say: Callable[[str], object]) -> None:
        self.token = token or get_token()
        self.say = say
        self.progress = 0  # when it increases, failures are counted from 0 again

    def call(self, what: str, action: Callable[[], Result]) -> Result:
        """The result of `action`. It must be idempotent: it is called again if its response was lost.

        Raises:
            PushError: The Hub refused the call.
            TransientError: The call failed too often.
        """
        failures, progress = 0, self.progress
        while True:
            try:
                return action()
            except Exception as error:
                failure = self._failure(what, error)
            if self.progress > progress:
                failures, progress = 0, self.progress
            failures += 1
            wait = min(2.0 ** (failures - 1), _MOST_SECONDS) if failure.wait is None else float(failure.wait)
            if failures >= failure.attempts or wait > _LONGEST_WAIT:
                later = f" It asks to wait {wait:.0f} s." if wait > _LONGEST_WAIT else ""
                raise TransientError(f"{failure.reason} ({failures} times).{later} Try again later.")
            self.say(f"{failure.reason}: trying again in {wait:.0f} s")
            time.sleep(wait)

    def _failure(self, what: str, error: Exception) -> _Failure:
        """The failure of a call, if it is transient; else raises the error to report."""
        cause: BaseException = error
        while isinstance(cause, RuntimeError) and cause.__cause__ is not None:  # uploads wrap their errors in it
            cause = cause.__cause__
        if isinstance(cause, HfHubHTTPError):
            return self._from_response(what, cause)
        if isinstance(cause, LocalTokenNotFoundError):
            raise PushError("you are not logged in to the Hub: run `hf auth login`, or set HF_TOKEN.") from None
        if isinstance(cause, OfflineModeIsEnabled):
            raise PushError("HF_HUB_OFFLINE is set, so nothing can be pushed: unset it.") from None
        if isinstance(cause, HFValidationError):
            raise PushError(self._clean(f"the Hub does not allow this name: {cause}")) from None
        if isinstance(cause, json.JSONDecodeError):  # probably a page of a proxy; its status is not known here
            return _Failure(f"the Hub's response to {what} was not JSON", attempts=2)
        if isinstance(cause, (_HttpError, ConnectionError, TimeoutError)):
            return _Failure(self._clean(f"the connection to the Hub was lost while {what} ({type(cause).__name__})"))
        if type(cause) is RuntimeError:  # from the Rust library of Xet, which may have the status in its text
            text = self._clean(str(cause))
            if re.search(r"\b40[13]\b", text):
                raise PushError(f"the Hub refused {what}: {text}") from None
            return _Failure(f"{what} failed ({text}; for a server without Xet set HF_HUB_DISABLE_XET=1)")
        if isinstance(cause, ValueError) and not isinstance(cause, VigcError):  # refused metadata or hashes
            raise PushError(self._clean(f"the Hub refused a part of {what}: {cause}")) from None
        raise error

    def _from_response(self, what: str, error: HfHubHTTPError) -> _Failure:
        status = error.response.status_code
        message = f": {error.server_message}" if error.server_message else ""
        response = self._clean(f"{status}{message}")
        if status in (401, 403):
            raise PushError(
                f"the Hub refused {what} ({response}). No local file was changed. Check the name and that your token "
                "may write there (`hf auth login`, or HF_TOKEN)."
            ) from None
        if status in _TRANSIENT or status >= 500:
            return _Failure(f"the Hub answered {what} with {response}", wait=_retry_after(error))
        raise PushError(f"the Hub answered {what} with {response}.") from None

    def _clean(self, text: str) -> str:
        joined = " ".join(text.split())
        return joined.replace(self.token, "***") if self.token else joined


def _retry_after(error: HfHubHTTPError) -> int | None:
    """Seconds that the response asks to wait. The Hub's own header for this ends in `t=<seconds>`."""
    headers = error.response.headers
    named = re.search(r"r=0;t=(\d+)", headers.get("ratelimit") or "")
    value = named[1] if named else (headers.get("Retry-After") or "").strip()
    return int(value) if value.isdigit() else None
