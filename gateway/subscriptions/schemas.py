"""Models of what the subscription APIs take and give, for OpenAPI. Requests are judged by `rules`, not by them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

OFFSET = "0000000000000000_0000000000000042"


class WebhookRequest(BaseModel):
    url: str = Field(
        description="Receives the wakes. https; plain http for localhost and 127.x.x.x alone. Private, link-local"
        " and other inner targets are refused, by name and again by address at each delivery.",
        examples=["https://worker.example/hooks"],
    )


class CreateRequest(BaseModel):
    type: Literal["webhook", "pull-wake"] = Field(description="How workers are woken.")
    pattern: str | None = Field(
        None,
        description="Streams by pattern: `*` is one segment of a path, `**` any number. Those that exist are linked at"
        " their tail; those that come later from their beginning. The wake_stream is never among them.",
        examples=["runs/*"],
    )
    streams: list[str] | None = Field(
        None, description="Streams by path, linked at their tail. Needed without a pattern."
    )
    webhook: WebhookRequest | None = Field(None, description="For type webhook.")
    wake_stream: str | None = Field(
        None,
        description="For type pull-wake: the JSON stream that wakes are appended to. Create it yourself. A run's stream"
        " takes the scope write as well.",
    )
    lease_ttl_ms: int = Field(30_000, ge=1_000, le=600_000, description="How long a worker may be silent, in ms.")
    description: str | None = None


class Cursor(BaseModel):
    path: str
    link_type: Literal["glob", "explicit"]
    acked_offset: str = Field(description="Last processed, inclusive; `-1` before the first event.", examples=[OFFSET])


class Work(Cursor):
    tail_offset: str = Field(examples=[OFFSET])
    has_pending: bool


class Signing(BaseModel):
    alg: Literal["ed25519"]
    kid: str = Field(description="The key that signs now; a delivery's own header names the key that signed it.")
    jwks_url: str


class Webhook(BaseModel):
    url: str
    signing: Signing


PAGE: list[dict[str, Any]] = [
    {
        "name": "limit",
        "in": "query",
        "description": "How many, at most.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
    },
    {
        "name": "cursor",
        "in": "query",
        "description": "The next_cursor of the page before.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 256},
    },
]


class Listed(BaseModel):
    id: str
    subscription_id: str
    type: Literal["webhook", "pull-wake"]
    pattern: str | None = None
    webhook: Webhook | None = None
    wake_stream: str | None = None
    lease_ttl_ms: int
    created_at: str
    status: Literal["active", "failed"] = Field(
        description="`failed` while a failed delivery, or a wake that could not be written, waits for its retry."
    )
    wake_error: str | None = Field(
        None, description="Why the last wake could not be written to the wake_stream; it is tried again."
    )
    description: str | None = None


class Subscription(Listed):
    streams: list[Cursor] = Field(description="Those with pending events first; at most 10,000.")


class Subscriptions(BaseModel):
    subscriptions: list[Listed] = Field(description="By their ids.")
    next_cursor: str | None = Field(None, description="Asks for the next page; left out on the last one.")


class StreamsRequest(BaseModel):
    streams: list[str] = Field(min_length=1, description="Stream-root-relative paths.", examples=[["runs/42"]])


class ClaimRequest(BaseModel):
    worker: str = Field(min_length=1, max_length=256, description="Who claims; shown to those who come second.")


class Claimed(BaseModel):
    wake_id: str
    generation: int
    token: str = Field(description="The bearer token for ack and release.")
    streams: list[Work] = Field(description="Those with pending events first; at most 1,000, the next wake has more.")
    lease_ttl_ms: int


class Ack(BaseModel):
    stream: str
    offset: str = Field(description="Last processed, inclusive.", examples=[OFFSET])


class ReleaseRequest(BaseModel):
    wake_id: str
    generation: int


class AckRequest(ReleaseRequest):
    acks: list[Ack] = Field([], description="All are applied, or none.")
    done: bool = Field(False, description="Ends the wake; without it the lease is extended.")


class Settled(BaseModel):
    ok: Literal[True]
    next_wake: bool = Field(description="Whether work was left, so that the next wake has been made.")


class Jwk(BaseModel):
    kty: Literal["OKP"]
    crv: Literal["Ed25519"]
    kid: str
    use: Literal["sig"]
    alg: Literal["EdDSA"]
    x: str


class Jwks(BaseModel):
    keys: list[Jwk]


class ErrorFields(BaseModel):
    code: str = Field(description="What is wrong, as the protocol names it.", examples=["FENCED"])
    type: str = Field(description="The same in lower case, as in all errors of the gateway.", examples=["fenced"])
    message: str
    details: str | None = None
    current_holder: str | None = Field(None, description="With ALREADY_CLAIMED: the worker that holds the lease.")
    generation: int | None = Field(None, description="With ALREADY_CLAIMED.")


class Error(BaseModel):
    error: ErrorFields


class OtherFields(BaseModel):
    type: str = Field(examples=["unavailable"])
    message: str
    details: str | None = None


class Other(BaseModel):
    error: OtherFields


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """A request body for `openapi_extra`."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema_of(model)}}}}


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """The model's schema with what it refers to put in its place: a reference is one of the document it stands in."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def inlined(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return inlined(definitions[node["$ref"].rpartition("/")[2]])
            return {key: inlined(value) for key, value in node.items()}
        return [inlined(value) for value in node] if isinstance(node, list) else node

    whole: dict[str, Any] = inlined(schema)
    return whole
