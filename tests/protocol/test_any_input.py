"""Every parser, with whatever may come: a value or a ProtocolError, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.auth.gate import token_of
from gateway.auth.rules import needed
from gateway.protocol import append, create, json_body, read, target
from gateway.protocol.errors import ProtocolError
from gateway.protocol.headers import etag_matches
from gateway.protocol.offset import format_offset, parse_cursor, parse_offset, parse_position
from gateway.protocol.target import Target
from gateway.runs import bodies, queries
from tests.protocol.parsing import parse_append

# What is close to what is meant gets further than noise does.
VALUES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [b"true", b"0", b"1", b"-1", b"now", b"9" * 17, b"2026-01-01T00:00:00Z", b"2026-02-30T25:61:61+99:99",
         b"0000000000000000_0000000000000001", b"/runs/a", b"/v1/stream/%ff", b"application/json", b'"1:-1:2"', b"\xff"]
    ),
)  # fmt: skip
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(sorted({*append.APPEND_HEADERS, *create.CREATE_HEADERS, *append.HEARTBEAT_HEADERS,
                                b"last-event-id", b"if-none-match", b"authorization"})),
        VALUES,
    ),
    max_size=8,
)  # fmt: skip
NAMES = st.sampled_from(["offset", "live", "cursor", "tail", "meta", "wait", "limit", "status", "metadata.a", "token"])
QUERIES = st.lists(st.tuples(NAMES, VALUES), max_size=5).map(
    lambda pairs: "&".join(f"{name}={value.decode('latin-1')}" for name, value in pairs)
)
RAW_QUERIES = QUERIES.map(lambda query: query.encode("latin-1")) | st.binary(max_size=80)
BODIES = st.binary(max_size=60) | st.sampled_from(
    [
        b"",
        b"[]",
        b"[1,2]",
        b'{"id":"a"}',
        b'{"id":1e999}',
        b'{"lease":1,"metadata":{"a":"\\u0000"}}',
        b"null",
        b'"\\ud800"',
    ]
)
PATHS = st.text(max_size=40) | st.sampled_from(["runs/a", "runs/a/control", "runs/a/heartbeat", "runs/", "a" * 2000])

PARSERS: dict[str, Callable[[Any], Any]] = {
    "append": lambda draw: parse_append(draw(PATHS), draw(HEADERS), draw(BODIES)),
    "create": lambda draw: json_body.at_once(
        create.parse_create(draw(PATHS), draw(HEADERS), draw(BODIES)).events_in_pieces("application/json")
    ),
    "heartbeat": lambda draw: append.parse_heartbeat(draw(PATHS), draw(HEADERS), draw(BODIES)),
    "read": lambda draw: read.parse_read(draw(PATHS), draw(HEADERS), draw(RAW_QUERIES), with_tail=draw(st.booleans())),
    "path": lambda draw: target.check_path(draw(PATHS)),
    "target": lambda draw: Target.of(draw(st.sampled_from(["/", "/v1/stream/"])) + draw(PATHS)).check(),
    "cursor": lambda draw: parse_cursor(draw(VALUES)),
    "etag": lambda draw: etag_matches(draw(VALUES), b'"1"'),
    "run": lambda draw: bodies.parse_create(draw(BODIES)),
    "cancel": lambda draw: bodies.parse_cancel(draw(BODIES)),
    "meta": lambda draw: queries.parse_meta(draw(RAW_QUERIES)),
    "list": lambda draw: queries.parse_list(draw(QUERIES)),
    "token": lambda draw: token_of(draw(HEADERS), draw(RAW_QUERIES)),
    "rules": lambda draw: needed(draw(st.sampled_from(["GET", "POST", "PUT", "FOO"])), Target.of("/" + draw(PATHS))),
}


@pytest.mark.parametrize("parser", PARSERS)
@settings(max_examples=200)
@given(data=st.data())
def test_it_is_understood_or_refused(parser: str, data: st.DataObject) -> None:
    with suppress(ProtocolError):
        PARSERS[parser](data.draw)


@given(HEADERS, BODIES)
def test_what_an_append_was_understood_as_is_what_it_said(headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    with suppress(ProtocolError):
        understood = parse_append("runs/a", headers, body)
        said = dict(headers)
        if understood.producer is not None:
            assert said[b"producer-id"].decode("latin-1") == understood.producer.id
            assert int(said[b"producer-epoch"]) == understood.producer.epoch
            assert int(said[b"producer-seq"]) == understood.producer.seq
        assert understood.close == (said.get(b"stream-closed", b"").lower() == b"true")
        assert bool(understood.events) or understood.close


@given(VALUES)
def test_an_offset_that_is_one_is_written_as_the_same_position(token: bytes) -> None:
    position = parse_position(token)
    if position is not None:
        assert parse_offset(format_offset(position)) == position


@given(st.sampled_from(["", "acme", "a.b-c"]), st.text(alphabet=st.characters(exclude_characters="\x1f"), max_size=20))
def test_a_tenants_path_comes_apart_as_it_was_put_together(tenant: str, name: str) -> None:
    stored = target.within(tenant, name)
    assert (target.tenant_of(stored), target.without(stored)) == (tenant, name)


@given(st.integers(1, 10**17))
def test_a_lists_cursor_comes_back(stream: int) -> None:
    assert queries.parse_list(f"cursor={queries.format_cursor(stream)}").before == stream
