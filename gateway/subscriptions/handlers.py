"""The handlers of the reserved control APIs (§6, §7): each parses, asks the store, and answers.

Bodies are read by hand: the protocol's own rules and codes judge them (`rules`), not a schema.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Annotated, Any, Final

import orjson
from fastapi import Path, Request
from fastapi.responses import Response

from gateway.auth.errors import ScopeMissing
from gateway.auth.gate import principal_of
from gateway.auth.principal import NOBODY
from gateway.http.bodies import Bodies
from gateway.protocol.record import instant
from gateway.protocol.target import is_run, tenant_of, within, without
from gateway.quotas import Rate
from gateway.subscriptions import http, rules
from gateway.subscriptions.errors import Code, Refusal
from gateway.subscriptions.records import EACH, Link, Subscription, Type
from gateway.subscriptions.rules import Settlement
from gateway.subscriptions.signing import Keys
from gateway.subscriptions.store import Store
from gateway.tasks import in_turns

_PIECE: Final = 1_000  # links that are described in one turn of the loop


def _stored(request: Request, id: str) -> str:
    """The subscription's id inside the tenant of the principal that asks. Raises Refusal."""
    return within(principal_of(request.scope).tenant, rules.parse_id(id))


Id = Annotated[str, Path(description="The subscription's id, chosen by its creator: 1 to 256 characters, no slash.")]


class Handlers:
    """The handlers, one a route.

    They call `changed` when other things are subscribed to than before, and `ring` when there may be a wake to deliver.
    `address` makes the URL of a path below the router's prefix; `changes` limits those of each tenant.
    """

    def __init__(
        self,
        store: Store,
        keys: Callable[[], Awaitable[Keys]],
        *,
        changed: Callable[[], Awaitable[None]],
        ring: Callable[[], None],
        address: Callable[[str], str],
        allow_local_webhooks: bool,
        bodies: Bodies,
        changes: Rate,
    ) -> None:
        self._store = store
        self._keys = keys
        self._changed = changed
        self._ring = ring
        self._address = address
        self._allow_local = allow_local_webhooks
        self._bodies = bodies
        self._changes = changes

    async def create(self, request: Request, id: Id) -> Response:
        """Creates a subscription, or confirms one that has just this configuration."""
        principal = principal_of(request.scope)
        stored, tenant = self._change(request, id), principal.tenant
        wanted = rules.parse_create(await http.body(request, self._bodies), allow_local_webhooks=self._allow_local)
        if wanted.wake_stream is not None and is_run(wanted.wake_stream) and "write" not in principal.scopes:
            raise ScopeMissing("write")  # each wake is an event of that run
        created = await self._store.create(stored, wanted.within(tenant))
        if created:
            await self._changed()
        return http.json(201 if created else 200, await self._document(await self._store.get(stored)))

    async def listing(self, request: Request) -> Response:
        """The tenant's subscriptions, by their ids, without their cursors: a page of them."""
        tenant = principal_of(request.scope).tenant
        limit, after = rules.parse_page(request.query_params)
        found = await self._store.of_tenant(tenant, after, limit + 1)
        documents = [await self._document(each) for each in found[:limit]]
        for document in documents:
            del document["streams"]
        page: dict[str, Any] = {"subscriptions": documents}
        if len(found) > limit:
            page["next_cursor"] = documents[-1]["id"]
        return http.json(200, page)

    async def read(self, request: Request, id: Id) -> Response:
        """The subscription with its cursors."""
        return http.json(200, await self._document(await self._store.get(_stored(request, id))))

    async def delete(self, request: Request, id: Id) -> Response:
        """Deletes the subscription, if there is one. What is in flight for it fails from now on."""
        await self._store.delete(self._change(request, id))
        await self._changed()
        return http.empty()

    async def add_streams(self, request: Request, id: Id) -> Response:
        """Links streams explicitly, at their present tail."""
        stored, tenant = self._change(request, id), principal_of(request.scope).tenant
        paths = rules.parse_streams(await http.body(request, self._bodies))
        await self._store.add_streams(stored, [within(tenant, path) for path in paths])
        await self._changed()
        return http.empty()

    async def remove_stream(
        self,
        request: Request,
        id: Id,
        path: Annotated[str, Path(description="The stream's path; it may hold slashes.")],
    ) -> Response:
        """Takes an explicit link away. A link by the pattern stays."""
        stored, tenant = self._change(request, id), principal_of(request.scope).tenant
        await self._store.remove_stream(stored, within(tenant, rules.parse_path(path)))
        await self._changed()
        return http.empty()

    async def claim(self, request: Request, id: Id) -> Response:
        """Claims a pull-wake: of all workers, the one that is answered 200 has the lease."""
        stored = _stored(request, id)
        worker = rules.parse_worker(await http.body(request, self._bodies))
        keys = await self._keys()
        claim = await self._store.claim(stored, worker)
        return http.json(
            200,
            {
                "wake_id": claim.wake_id,
                "generation": claim.generation,
                "token": keys.issue_token(stored, claim.generation, time.time(), secrets.token_hex(8)),
                "streams": [link.work() for link in claim.links],
                "lease_ttl_ms": claim.lease_ttl_ms,
            },
        )

    async def callback(self, request: Request, id: Id) -> Response:
        """A webhook's handler acks, keeps its lease alive, or is done."""
        return await self._settle(request, id, None)

    async def ack(self, request: Request, id: Id) -> Response:
        """A pull-wake's worker acks, keeps its lease alive, or is done."""
        return await self._settle(request, id, "pull-wake")

    async def release(self, request: Request, id: Id) -> Response:
        """A pull-wake's worker gives the lease back. If work is left, the next wake is made."""
        token = await self._shown(request, id)
        released = rules.parse_object(await http.body(request, self._bodies))
        asked = rules.parse_settlement({**released, "acks": [], "done": True})
        await self._apply(request, id, "pull-wake", token, asked)
        return http.empty()

    async def jwks(self) -> Response:
        """The public keys that webhook signatures are verified with."""
        keys = await self._keys()
        return http.answer(200, orjson.dumps(keys.jwks()), "application/jwk-set+json", "public, max-age=300")

    def _change(self, request: Request, id: str) -> str:
        """The stored id of a subscription that is to be changed, which counts. Raises Refusal."""
        if not self._changes.take(principal_of(request.scope).tenant, time.monotonic()):
            raise Refusal(Code.TOO_MANY_CHANGES, f"At most {self._changes.limit:g} changes a second for each tenant")
        return _stored(request, id)

    async def _settle(self, request: Request, id: str, type: Type | None) -> Response:
        token = await self._shown(request, id)
        settlement = rules.parse_settlement(await http.body(request, self._bodies))
        return http.json(200, {"ok": True, "next_wake": await self._apply(request, id, type, token, settlement)})

    async def _shown(self, request: Request, id: str) -> str:
        """The token that the request carries. Without another credential, it is checked before a body is read."""
        token = rules.parse_bearer(request.headers.get("authorization"))
        if principal_of(request.scope) is NOBODY:
            rules.parse_id(id)
            (await self._keys()).check_token(token, id, time.time())
        return token

    async def _apply(self, request: Request, id: str, type: Type | None, token: str, settlement: Settlement) -> bool:
        stored = rules.parse_id(id)
        keys = await self._keys()
        refused: Refusal | None = None
        generation: int | None = None
        try:
            stored, generation = keys.check_token(token, id, time.time())
        except Refusal as refusal:
            if principal_of(request.scope) is NOBODY:
                raise  # without any valid credential one is not told whether there is such a subscription
            refused = refusal  # told only if the subscription is there: that it is not goes first
        try:
            next_wake = await self._store.settle(stored, type, generation, settlement.within(tenant_of(stored)))
        except Refusal as refusal:
            raise refused if refused and refusal.code is Code.TOKEN_INVALID else refusal from None
        if next_wake:
            self._ring()
        return next_wake

    async def _document(self, subscription: Subscription) -> dict[str, Any]:
        document = {
            "id": without(subscription.id),
            "subscription_id": without(subscription.id),
            "type": subscription.type,
            "pattern": subscription.pattern,
            "streams": await in_turns(_cursors_in_pieces(subscription.links), EACH * len(subscription.links)),
            "webhook": await self._webhook(subscription.webhook_url),
            "wake_stream": subscription.wake_stream and without(subscription.wake_stream),
            "lease_ttl_ms": subscription.lease_ttl_ms,
            "created_at": instant(subscription.created_at),
            "status": "failed" if subscription.failing else "active",
            "wake_error": subscription.wake_error,
            "description": subscription.description,
        }
        return {name: value for name, value in document.items() if value is not None}

    async def _webhook(self, url: str | None) -> dict[str, Any] | None:
        if url is None:
            return None
        kid = (await self._keys()).signer.kid
        return {"url": url, "signing": {"alg": "ed25519", "kid": kid, "jwks_url": self._address("jwks.json")}}


def _cursors_in_pieces(links: Sequence[Link]) -> Generator[None, None, list[dict[str, Any]]]:
    cursors: list[dict[str, Any]] = []
    for link in links:
        cursors.append(link.cursor())
        if len(cursors) % _PIECE == 0:
            yield
    return cursors
