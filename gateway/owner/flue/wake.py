"""Wakes an idle Flue 2.x app, so that it looks after the submissions whose process is gone, which by itself it would
not do.

Flue 2.1.0 starts its loop when it admits a message, and looks at others' leases each 15 s from then on; an abort that
finds something queued has it look at once. No request starts it and does nothing else. The nearest is this pair, to a
conversation of the gateway's own: a message whose one attachment is no base64, which is admitted, and refused before
anything is made of it (500, and a line in the app's log), and an abort, which settles it. No model is called, and
nobody's conversation is touched.
"""

from __future__ import annotations

import logging
from typing import Final

import httpcore
import orjson

logger = logging.getLogger("gateway.owner.flue")

ID: Final = "run-gateway-wake"
PATIENCE: Final = 5.0  # seconds for each of the two answers
_MESSAGE: Final = orjson.dumps(
    {
        "kind": "user",
        "body": "From the run gateway: take up what another server has left.",
        "attachments": [{"type": "image", "mimeType": "image/png", "data": "%"}],
    }
)
_NOBODYS: Final = orjson.dumps({"kind": "user", "body": "", "uid": "none"})


class Waker:
    """Wakes the app at `origin`, such as `http://127.0.0.1:3000`. `mount`: an agent's, such as `/agents/chat`.

    `authorization`: what the app asks for there, if it asks for something.
    """

    def __init__(self, origin: str, mount: str, authorization: str | None) -> None:
        self.woken = 0
        self._answered = False  # a message of ours was taken for one: never again
        self._mount = f"{origin.rstrip('/')}{mount}"
        self._url = f"{self._mount}/{ID}"
        self._headers = [("content-type", "application/json"), ("user-agent", "run-gateway")]
        if authorization is not None:
            self._headers.append(("authorization", authorization))

    async def wake(self) -> bool:
        """Whether the app looks now. If not, a line of the log says why."""
        if self._answered:
            return False
        try:
            async with httpcore.AsyncConnectionPool() as http:
                sent = await self._post(http, self._url, _MESSAGE)
                done = await self._post(http, f"{self._url}/abort", b"{}")
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
            logger.warning("The Flue app could not be woken: %r.", error)
            return False
        if sent.status == 500 and done.status == 200:
            self.woken += 1
            return True
        self._answered = sent.status < 300
        logger.warning(
            "The Flue app was asked to take up what another server has left, and answered %d and %d at %s: it goes on"
            " with that when it is given its next message.%s",
            sent.status,
            done.status,
            self._url,
            self._hint(sent.status),
        )
        return False

    async def touch(self, id: str) -> bool:
        """Sends a message for an instance that there never was, of a conversation of the gateway's own: the app touches
        the conversation and refuses the message. Returns whether it did.
        """
        try:
            async with httpcore.AsyncConnectionPool() as http:
                answer = await self._post(http, f"{self._mount}/{id}", _NOBODYS)
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError):
            return False
        if answer.status != 404:
            logger.warning(
                "The Flue app answered %d where 404 was expected, so it is not known which conversations it runs.%s",
                answer.status,
                self._hint(answer.status),
            )
        return answer.status == 404

    def _hint(self, status: int) -> str:
        return " GATEWAY_FLUE_AUTHORIZATION says what its agents ask for." if status in (401, 403) else ""

    async def _post(self, http: httpcore.AsyncConnectionPool, url: str, body: bytes) -> httpcore.Response:
        timeout = {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), PATIENCE)}
        return await http.request("POST", url, headers=self._headers, content=body, extensions=timeout)
