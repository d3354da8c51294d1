"""Errors of the Hub client, turned into errors of vigc."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from huggingface_hub.constants import is_offline_mode
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from vigc.errors import GenerationError, TransientError, first_line

# httpx's or httpx2's, whichever huggingface_hub is built on: the base of its transport errors.
_HttpError = cast(type[Exception], next(base for base in HfHubHTTPError.__bases__ if not issubclass(base, OSError)))


def is_hub_away(error: BaseException | None) -> bool:
    """Whether the Hub could not be reached, or was too busy: not so with a mistaken name or a token that is missing."""
    while error is not None and not is_offline_mode():
        if isinstance(error, HfHubHTTPError) and (error.response.status_code == 429 or error.response.is_server_error):
            return True
        if isinstance(error, LocalEntryNotFoundError):  # neither reached nor in the cache
            return True
        if isinstance(error, _HttpError) and not hasattr(error, "response"):  # no answer at all
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def asking_the_hub(what: str) -> Iterator[None]:
    """What the Hub refuses, or why it does not answer, as a `GenerationError` that names what was asked for."""
    try:
        yield
    except (HfHubHTTPError, _HttpError) as error:
        reason = first_line(error)
        if is_hub_away(error):
            raise TransientError(
                f"The Hub does not answer for {what!r} ({reason}): run the same command again later."
            ) from error
        raise GenerationError(
            f"The Hub gives {what!r} no more ({reason}): see that it is there and that your token may read it."
        ) from error
