"""Pictures that stand in data as addresses: fetched from hosts that were named, within bounds, and from no others.

An address is a stranger's word for where this machine sends a request, so each step is checked by itself: the host of
the address and of every redirection, the numeric address that is connected to, the bytes as they come.
"""

from __future__ import annotations

import errno
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, NamedTuple
from urllib.parse import quote, urljoin, urlsplit

from vigc.errors import ImageError, ImagePathError, ImageSizeError, TransientError, is_transient
from vigc.processing.images import MAX_BYTES

from .hosts import HOST, as_resolved, check_hosts

SECONDS = 60.0  # for a picture in all, repetitions and redirections included
_SILENCE = 10.0  # that a server may take to begin, or to go on
_WAITS = (1.0, 3.0)  # between attempts, unless the server asks for more
_REDIRECTIONS = 5
_BLOCK = 2**16
# Failures after which it is the network that is away, where nobody was ever reached and no host is named in full.
_NOBODY = 8
# Nothing is unpacked, which would need a limit of its own.
_HEADERS = {"User-Agent": "vigc", "Accept": "image/*", "Accept-Encoding": "identity", "Connection": "close"}
_REDIRECTED = (301, 302, 303, 307, 308)
_LATER = (429, 503)  # what a server says that is busy
_PASSING = (408, 425, 500, 502, 504, *_LATER)
_AS_IT_IS = "/%:@!$&'()*+,;=?~-._[]"


# Addresses of IPv6 that carry one of IPv4, which is connected to in the end: mapped, compatible, NAT64, 6to4. So many
# bits stand behind it.
_CARRIERS = {
    IPv6Network("::ffff:0:0/96"): 0,
    IPv6Network("::/96"): 0,
    IPv6Network("64:ff9b::/96"): 0,
    IPv6Network("2002::/16"): 80,
}
# Whatever Python's version says of them: Teredo, documentation; site-local, local and a network's own NAT64 addresses
# are not unicast ones.
_UNICAST = IPv6Network("2000::/3")
_NOT_GLOBAL = (IPv6Network("2001::/32"), IPv6Network("2001:db8::/32"), IPv6Network("3fff::/20"))
# Where clouds tell a machine its keys (AWS, Azure, Google, Oracle, Alibaba), and the relays of 6to4.
_NOT_PUBLIC = [
    IPv4Network(network)
    for network in ("169.254.0.0/16", "192.0.0.0/24", "168.63.129.16/32", "100.100.100.200/32", "192.88.99.0/24")
]


class _Asked(NamedTuple):
    """An address, taken apart and allowed."""

    secure: bool
    host: str
    port: int
    target: str
    named: bool


class _PassingError(Exception):
    """What may be otherwise at the next attempt; with the seconds that the server asks to wait."""

    def __init__(self, reason: str, asked: _Asked, wait: float = 0.0, busy: bool = False) -> None:
        super().__init__(reason)
        self.asked, self.wait, self.busy = asked, wait, busy


def is_address(name: str) -> bool:
    """Whether a name is an address of any kind, and no file's."""
    return "://" in name[:16] or name.startswith("data:")


class Addresses:
    """Fetches pictures from hosts that were named.

    Args:
        hosts: Names; "*.example.org" is all below a name, "*" any host. A host that is named in full may be anywhere,
            in this network too; one that a star lets in must have a public address. Proxies of the environment, cookies
            and passwords are not used.
    """

    def __init__(self, hosts: Sequence[str] = ()) -> None:
        self.hosts = check_hosts(hosts)
        self._reached: tuple[Any, ...] | None = None  # who was, last: tells a dead host from a dead network
        self._unanswered = 0

    def fetch(self, address: str) -> bytes:
        """The bytes behind an address, at most `MAX_BYTES` of them, in at most `SECONDS`.

        Raises:
            ImageError: It is not allowed, there is nothing, or nobody answers after several attempts.
            TransientError: The network is away, or a host that was named in full is busy.
        """
        name, deadline, failures = _shown(address), time.monotonic() + SECONDS, 0
        while True:
            try:
                return self._follow(address, name, deadline)
            except _PassingError as error:
                trouble = error
            failures += 1
            wait = max(trouble.wait, _WAITS[min(failures, len(_WAITS)) - 1])
            if failures > len(_WAITS) or time.monotonic() + wait > deadline:
                break
            time.sleep(wait)
        times = f"{failures} times" if failures > 1 else "once"
        if trouble.busy and trouble.asked.named:
            raise TransientError(f"{name!r}: the host is busy ({trouble}, {times}): run the same command again later.")
        if not self._is_network_there(trouble.asked.port):
            raise TransientError(
                f"{name!r} and other hosts do not answer ({trouble}): run the same command again later."
            )
        raise ImageError(name, f"does not answer ({trouble}, {times}): download the file, or remove the entry")

    def _follow(self, address: str, name: str, deadline: float) -> bytes:
        """The bytes, from where redirections lead."""
        for _ in range(_REDIRECTIONS + 1):
            found = self._ask(self._allowed(address, name), name, deadline)
            if isinstance(found, bytes):
                return found
            address = urljoin(address, found)
        raise ImageError(name, f"is redirected more than {_REDIRECTIONS} times")

    def _allowed(self, address: str, name: str) -> _Asked:
        """An address taken apart, if it may be asked."""
        if not self.hosts:
            raise ImagePathError(
                name, "is an address, and none is fetched unless its host is named (--allow-urls HOST)"
            )
        leads = "is" if _shown(address) == name else f"leads to {_shown(address)!r},"
        try:
            parts = urlsplit(address)
            host, port = as_resolved(parts.hostname or ""), parts.port
            target = quote(parts.path or "/", safe=_AS_IT_IS) + (
                parts.query and f"?{quote(parts.query, safe=_AS_IT_IS)}"
            )
        except ValueError as error:
            raise ImagePathError(name, f"{leads} no address that can be asked ({error})") from error
        if parts.scheme not in ("http", "https"):
            raise ImagePathError(
                name, f"{leads} an address of the kind {parts.scheme!r}: only http and https are fetched"
            )
        if parts.username is not None:
            raise ImagePathError(name, f"{leads} an address with a user's name, which is not sent")
        if not HOST.fullmatch(host) or not self._is_allowed(host):
            given = ", ".join(self.hosts)
            raise ImagePathError(name, f"{leads} on the host {host!r}, which --allow-urls does not name ({given})")
        secure = parts.scheme == "https"
        return _Asked(secure, host, port or (443 if secure else 80), target, host in self.hosts)

    def _is_allowed(self, host: str) -> bool:
        return any(
            host == given or given == "*" or (given.startswith("*.") and host.endswith(given[1:]))
            for given in self.hosts
        )

    def _ask(self, asked: _Asked, name: str, deadline: float) -> bytes | str:
        """The body of an answer, or where a redirection leads."""
        try:
            with self._answer(asked, name, deadline) as response:
                if response.status in _REDIRECTED and (location := response.getheader("Location")):
                    return location
                if response.status != 200:
                    raise _refusal(response, name, asked)
                return _body(response, name, deadline)
        except ssl.SSLCertVerificationError as error:
            raise ImageError(name, f"has no valid certificate ({error.verify_message})") from error
        except (OSError, HTTPException) as error:
            # Of the machine's troubles those that are no answer of the network.
            if is_transient(error) and getattr(error, "errno", None) != errno.ETIMEDOUT:
                raise
            if time.monotonic() >= deadline:
                raise _PassingError(f"it takes longer than {SECONDS:g} s", asked) from error
            raise _PassingError(str(error) or type(error).__name__, asked) from error

    @contextmanager
    def _answer(self, asked: _Asked, name: str, deadline: float) -> Iterator[HTTPResponse]:
        """An answer that is cut at the deadline, whatever the server does: time-outs know one silence at a time."""
        held = [self._connect(asked, name, min(_SILENCE, deadline - time.monotonic()))]
        watch = threading.Timer(deadline - time.monotonic(), _cut, [held])
        watch.daemon = True
        watch.start()
        connection = (HTTPSConnection if asked.secure else HTTPConnection)(asked.host, asked.port)
        try:
            if asked.secure:
                secured = self._trust.wrap_socket(held[0], server_hostname=asked.host, do_handshake_on_connect=False)
                held[0] = secured  # the only one from here on, the handshake included
                secured.do_handshake()
            connection.sock = held[0]
            connection.request("GET", asked.target, headers=_HEADERS)
            with connection.getresponse() as response:
                yield response
        finally:
            watch.cancel()
            connection.close()
            held[0].close()

    @cached_property
    def _trust(self) -> ssl.SSLContext:
        return ssl.create_default_context()

    def _connect(self, asked: _Asked, name: str, patience: float) -> socket.socket:
        """A connection to an address that was looked at after the name was resolved, so that no other can be meant."""
        entries = socket.getaddrinfo(asked.host, asked.port, type=socket.SOCK_STREAM)
        places = [(str(entry[4][0]), asked.port) for entry in entries]
        # All of them: who answers with a public and a private one wants to be asked until the private one is taken.
        private = next((place for place, _ in places if not _is_public(place)), None)
        if private is not None and not asked.named:
            raise ImagePathError(
                name,
                f"leads to {private}, which is no public address: if that is meant, name the host {asked.host!r} "
                "in full with --allow-urls",
            )
        for place in places:
            try:
                connection = socket.create_connection(place, patience)
            except OSError:
                if place is places[-1]:
                    raise
            else:
                self._reached = place
                return connection
        raise AssertionError("getaddrinfo gives at least one place, or raises")

    def _is_network_there(self, port: int) -> bool:
        """Whether who was reached before can still be, or else any host that was named in full.

        A dead link is set aside, and a network that is away must not make one of every link.
        """
        named = [(host, port) for host in self.hosts if "*" not in host]
        places = named if self._reached is None else [self._reached]
        for place in places:
            with suppress(OSError):
                socket.create_connection(place, _SILENCE).close()
                return True
        self._unanswered += 1
        return not places and self._unanswered < _NOBODY


def _refusal(response: HTTPResponse, name: str, asked: _Asked) -> Exception:
    """Why there is no picture in an answer."""
    said = f"{response.status} {response.reason}".strip()
    if response.status not in _PASSING:
        return ImageError(name, f"cannot be fetched (the answer is {said})")
    wait = (response.getheader("Retry-After") or "").strip()
    return _PassingError(said, asked, float(wait) if wait.isdecimal() else 0.0, response.status in _LATER)


def _body(response: HTTPResponse, name: str, deadline: float) -> bytes:
    """All bytes of an answer, counted as they come."""
    parts: list[bytes] = []
    size, announced = 0, response.length or 0
    while max(size, announced) <= MAX_BYTES and (part := response.read(_BLOCK)):
        parts.append(part)
        size += len(part)
    if max(size, announced) > MAX_BYTES:
        raise ImageSizeError(name, f"has more bytes than the limit of {MAX_BYTES:,}: make it smaller")
    if response.length or time.monotonic() >= deadline:
        raise HTTPException("the answer broke off")
    return b"".join(parts)


def _cut(held: list[socket.socket]) -> None:
    with suppress(OSError):  # over already
        socket.socket.shutdown(held[0], socket.SHUT_RDWR)  # not TLS's own, which the reading thread would stumble over


def _is_public(address: str) -> bool:
    """Whether an address is one of the Internet's, and none of this network or of the machine's cloud."""
    try:
        number = ip_address(address.partition("%")[0])  # "%eth0" names the way to an address of this network
    except ValueError:
        return False
    if isinstance(number, IPv6Address):
        for network, shift in _CARRIERS.items():
            if number in network:
                number = IPv4Address(int(number) >> shift & 0xFFFFFFFF)
                break
        else:
            return number in _UNICAST and number.is_global and not any(number in network for network in _NOT_GLOBAL)
    return number.is_global and not number.is_multicast and not any(number in network for network in _NOT_PUBLIC)


def _shown(address: str) -> str:
    return address.encode("utf-8", "backslashreplace").decode()
