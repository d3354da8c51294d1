"""Turns errors of the Hub client into errors of vigc."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from huggingface_hub.constants import is_offline_mode
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from vigc.errors import GenerationError, TransientError, first_line

# The base class of transport errors, of httpx or httpx2: whichever huggingface_hub uses.
_HttpError = cast(type[Exception], next(base for base in HfHubHTTPError.__bases__ if not issubclass(base, OSError)))


def is_hub_away(error: BaseException | None) -> bool:
    """Whether the Hub was unreachable or overloaded. False for errors such as a wrong name or a missing token."""
    while error is not None and not is_offline_mode():
        if isinstance(error, HfHubHTTPError) and (error.response.status_code == 429 or error.response.is_server_error):
            return True
        if isinstance(error, LocalEntryNotFoundError):  # unreachable, and not in the cache
            return True
        if isinstance(error, _HttpError) and not hasattr(error, "response"):  # no answer at all
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def asking_the_hub(what: str) -> Iterator[None]:
    """Turns a refusal of the Hub into a `GenerationError`, and an outage into a `TransientError`; both name `what`."""
    try:
        yield
    except (HfHubHTTPError, _HttpError) as error:
        reason = first_line(error)
        if is_hub_away(error):
            raise TransientError(
                f"The Hub is unavailable for {what!r} ({reason}): run the same command again later."
            ) from error
        raise GenerationError(
            f"The Hub refuses {what!r} ({reason}): check that it exists and that your token may read it."
        ) from error
