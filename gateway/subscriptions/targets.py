"""The targets that webhooks may have (§6.2, §12.8). The URL is judged when a subscription is created, addresses at
every delivery.

Pure: it resolves no names and opens nothing. Which networks are public stands in `gateway.subscriptions.networks`.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from gateway.subscriptions.errors import Code, Refusal
from gateway.subscriptions.networks import is_public

if TYPE_CHECKING:
    import httpx

_MAX_URL: Final = 2048
_UNPRINTABLE: Final = re.compile(r"[\x00-\x20\x7f-\x9f\\\s]")
_LOCAL_SUFFIXES: Final = (".localhost", ".local", ".internal", ".home.arpa")
_NUMERIC: Final = re.compile(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+)){0,3}")


def check_webhook_url(raw: str, *, allow_local: bool) -> str:
    """The URL, if a webhook may have it. `allow_local`: plain http to this very host is allowed, for development.

    Raises Refusal. A name that is accepted may still lead to a forbidden address: see `choose_address`.
    """
    url = _parse(raw)
    host = _host(url)
    if url.scheme == "http":
        if allow_local and _is_this_host(host):
            return raw
        raise _rejected("http webhook URLs are only allowed for localhost or 127.0.0.x")
    if url.scheme != "https":
        raise _rejected("webhook.url must use https")
    if host == "localhost":
        raise _rejected("localhost webhook URLs must use http for dev")
    if ":" in host:
        raise _rejected("webhook.url must not name an IPv6 address")
    if host.endswith(_LOCAL_SUFFIXES) or ("." not in host and not _NUMERIC.fullmatch(host)):
        raise _rejected("webhook.url must not target a host of the local network")
    if _NUMERIC.fullmatch(host):
        address = _numeric(host)
        if address is None or not is_public(address):
            raise _rejected("webhook.url must not target private or link-local hosts")
    return raw


def choose_address(url: str, addresses: Sequence[str], attempt: int) -> str:
    """The address to connect to, out of those that the URL's host has now; another one at each attempt.

    Raises Refusal if any of them may not be called: a name that also leads to an inner address is not trusted at all.
    """
    parsed = [ipaddress.ip_address(address.partition("%")[0]) for address in addresses]
    local = url[:5].lower() == "http:"
    if not parsed or not all(address.is_loopback if local else is_public(address) for address in parsed):
        raise _rejected("webhook.url leads to an address that must not be called")
    parsed.sort(key=lambda address: (address.version, address))
    return str(parsed[attempt % len(parsed)])


def _parse(raw: str) -> httpx.URL:
    import httpx  # for nothing else, and not for the Machines without webhooks

    if len(raw) > _MAX_URL or _UNPRINTABLE.search(raw):
        raise _rejected("webhook.url must be a valid URL")
    try:
        url = httpx.URL(raw)
        host = url.host  # decoded only now: Punycode may stand for nothing
    except (httpx.InvalidURL, UnicodeError):
        raise _rejected("webhook.url must be a valid URL") from None
    if not host or not 0 < (url.port or 1) < 65536:
        raise _rejected("webhook.url must be a valid URL")
    if url.userinfo:
        raise _rejected("webhook.url must not hold a user name or a password")
    return url


def _host(url: httpx.URL) -> str:
    return url.host.lower().removesuffix(".")


def _is_this_host(host: str) -> bool:
    return host == "localhost" or re.fullmatch(r"127\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}", host) is not None


def _numeric(host: str) -> ipaddress.IPv4Address | None:
    # Parsed as resolvers do: 2130706433, 0x7f.1 and 127.1 are all 127.0.0.1.
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


def _rejected(message: str) -> Refusal:
    return Refusal(Code.WEBHOOK_URL_REJECTED, message)
