"""The hosts that pictures may be fetched from, as they are given."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vigc.errors import GenerationError

HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+")  # a name as resolvers know it, or a number


def check_hosts(hosts: Sequence[str]) -> list[str]:
    """The hosts as they are compared: in small letters, each once, sorted.

    Raises:
        GenerationError: One is no host.
    """
    if isinstance(hosts, str):
        raise GenerationError(f"allow_urls={hosts!r} is one string: give a list of hosts.")
    known = set()
    for given in hosts:
        try:
            host = as_resolved(given.strip("[]"))
        except ValueError:
            host = ""
        if given != "*" and not HOST.fullmatch(host.removeprefix("*.")):
            raise GenerationError(
                f"allow_urls: {given!r} is not a host name: give it alone, as in images.cocodataset.org, "
                "'*.staticflickr.com' for all subdomains, or '*' for any public host."
            )
        known.add(host)
    return sorted(known)


def as_resolved(host: str) -> str:
    """A host's name in the letters that resolvers take.

    Raises:
        ValueError: There is no such name.
    """
    return host.rstrip(".").encode("idna").decode().lower()
