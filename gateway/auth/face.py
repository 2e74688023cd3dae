"""Authentication as the application uses it: made from the settings, started, stopped, and asked at its door."""

from __future__ import annotations

import time
from typing import Any

from gateway.auth.gate import Gate, Verifier
from gateway.auth.keys import Keys
from gateway.auth.principal import ANONYMOUS, Principal
from gateway.settings import Settings


class Auth:
    """What stands at the entry of one Machine. Raises BadKeys for settings that let nobody in."""

    def __init__(self, settings: Settings) -> None:
        kinds = settings.auth.split(",")
        self._keys = Keys(settings.keys, settings.keys_file) if "keys" in kinds else None
        verifiers: list[Verifier] = []
        self._gate = (
            None if kinds == ["none"] else Gate(None if self._keys is None else self._keys.find, verifiers, time.time)
        )

    @property
    def on(self) -> bool:
        """Whether anybody is asked for a credential."""
        return self._gate is not None

    def known(self, scope: Any, stream: str) -> Principal | None:
        """Who appends to this stream, when memory tells; None: `admit` has to find out."""
        return ANONYMOUS if self._gate is None else self._gate.known(scope, stream)

    async def admit(self, scope: Any) -> Principal:
        """Who makes this request, when it is allowed. Raises the refusals of `gate.Gate.admit`."""
        return ANONYMOUS if self._gate is None else await self._gate.admit(scope)

    def read_again(self) -> None:
        """Takes the keys that the file holds now."""
        if self._keys is not None:
            self._keys.read_again()
