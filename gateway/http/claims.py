"""The headers of a request that are claims: what a proxy tells of its client, and anybody else may write as well.

Pure. The names are those of RFC 7239, of RFC 9440, and of the proxies and networks that people stand in front of their
applications. An application that reads one of them takes its value for the word of the proxy in front of it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

_CLAIM: Final = re.compile(
    rb"(?:.+-)?forwarded(?:-.*)?"  # Forwarded (RFC 7239), X-Forwarded-For, Fly-Forwarded-Proto
    rb"|(?:.+-)?(?:client|socket)?ip(?:v?[46])?"  # X-Real-IP, CF-Connecting-IP, True-Client-IP, Fly-Client-IP
    rb"|(?:.+-)?(?:client|external|peer|viewer)-addr(?:ess)?"  # X-Envoy-External-Address, CloudFront-Viewer-Address
    rb"|x-original-(?:host|proto)|x-host"
    rb"|(?:x-)?remote-.*"  # Remote-Addr, Remote-User, X-Remote-Group
    rb"|(?:x-)?(?:ssl-|tls-)?client-(?:cert|verify|s-dn|i-dn|dn|san).*"  # Client-Cert (RFC 9440), X-SSL-Client-Verify
    rb"|x-(?:auth-request|authenticated|webauth)-.*"
)


@lru_cache(maxsize=256)
def is_claim(name: bytes) -> bool:
    """True if a header of this name, in lower case, says who a client is, where it is, or what it has asked for.

    An application behind CGI or WSGI reads `_` in a name as `-`.
    """
    return _CLAIM.fullmatch(name.replace(b"_", b"-")) is not None
