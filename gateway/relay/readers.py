"""Access to recordings: for a client that has the credential of the POST, that the upstream lets in, or that has the
gateway's own credential. A client without access is not told that there is a recording.
"""

from __future__ import annotations

from typing import Final

from gateway.asgi import Scope, client_of
from gateway.auth.auth import Auth, Behind
from gateway.auth.errors import WrongStream
from gateway.auth.gate import let_in
from gateway.auth.principal import ANONYMOUS, Principal
from gateway.http.upstream import forwarded
from gateway.protocol.target import Target
from gateway.quotas import Quotas
from gateway.relay import answers
from gateway.relay.asking import Asking
from gateway.relay.ids import belongs, credential_of
from gateway.relay.keys import Asked
from gateway.relay.rows import Row
from gateway.settings import Settings
from gateway.settings.types import is_loopback

HIDDEN: Final = "~relay"
"""The tenant of recordings where everybody is let in from elsewhere: at `/runs` nobody would be asked for anything. No
credential can be for this one."""

Need = Behind


class Readers:
    """The checks of clients that come back. `secret`: makes the marks of credentials."""

    def __init__(self, settings: Settings, auth: Auth, quotas: Quotas, asking: Asking) -> None:
        self.secret = b""
        self._auth = auth
        self._quotas = quotas
        self._asking = asking
        self._tenant = HIDDEN if settings.auth == "none" and not is_loopback(settings.host) else ""

    async def admit(self, row: Row, need: Need, scope: Scope, run: str | None = None) -> str:
        """The tenant whose recordings this request may be for; `run`: which one, if it says so itself.

        Raises what the gate raises, where the row leaves it to the gate.
        """
        principal: Principal = ANONYMOUS
        tenant = self._tenant
        if self._auth.on and not row.credential and row.authorize is None:
            principal = await self._auth.behind(scope, need, run)
            if need == "write" and principal.bound:
                raise WrongStream("It is for some runs only, and this is to be a new one.")
            tenant = principal.tenant
        let_in(scope, principal)
        if need == "write" and self._quotas.judging:
            await self._quotas.judge("POST", Target.of("/runs"), principal, client_of(scope))
        return tenant

    def credential(self, row: Row, asked: Asked) -> bytes:
        """The credential that tells this client from others."""
        return credential_of(row.telling, asked, self.secret)

    def owns(self, row: Row, asked: Asked, run: str) -> bool:
        """Whether a run was made for this client."""
        return belongs(run, self.credential(row, asked), self.secret)

    async def allowed(self, row: Row, asked: Asked, run: str, key: str | None, scope: Scope) -> bool:
        """Whether the upstream lets this client in, where the row has it asked. Raises BadGateway."""
        if row.authorize is None:
            return True
        values = {**asked.path, "run": run, **({} if key is None else {"key": key})}
        if not row.authorize.names <= set(values):
            return False
        headers = answers.questioned(forwarded(scope))
        try:
            target = row.authorize.fill(values).encode()
        except KeyError:
            return False
        answer = await self._asking(row.authorize.method, target, headers, b"")
        answer.close()
        return 200 <= answer.status < 300
