from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.subscriptions import rules
from gateway.subscriptions.errors import Code, Refusal
from gateway.subscriptions.records import Link
from gateway.subscriptions.rules import Ack

HOOK = {"type": "webhook", "pattern": "events/*", "webhook": {"url": "https://worker.example/hook"}}
PULL = {"type": "pull-wake", "pattern": "events/*", "wake_stream": "wake/pool"}


def parse(body: object) -> rules.Wanted:
    return rules.parse_create(body, allow_local_webhooks=True)


def without(body: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key != name}


def test_what_is_asked_for_is_normalised() -> None:
    wanted = parse({**PULL, "pattern": "/events/*/", "streams": ["/b/", "a", "b"], "wake_stream": "/wake/pool"})
    assert wanted == rules.Wanted("pull-wake", "events/*", ("a", "b"), None, "wake/pool", 30_000, None)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (None, "Request body must be a JSON object"),
        ([], "Request body must be a JSON object"),
        ({}, 'type must be "webhook" or "pull-wake"'),
        ({**HOOK, "type": "email"}, 'type must be "webhook" or "pull-wake"'),
        (without(HOOK, "pattern"), "At least one of pattern or streams is required"),
        ({**HOOK, "pattern": 7}, "At least one of pattern or streams is required"),
        ({**without(HOOK, "pattern"), "streams": []}, "At least one of pattern or streams is required"),
        ({**HOOK, "streams": ["a", 7]}, "streams must contain only strings"),
        (without(HOOK, "webhook"), "webhook subscriptions require webhook.url"),
        ({**HOOK, "webhook": {"url": ""}}, "webhook subscriptions require webhook.url"),
        ({**HOOK, "webhook": "https://worker.example"}, "webhook subscriptions require webhook.url"),
        (without(PULL, "wake_stream"), "pull-wake subscriptions require wake_stream"),
        *(
            ({**HOOK, "lease_ttl_ms": ttl}, "lease_ttl_ms must be an integer from 1000 to 600000")
            for ttl in (None, "1000", 999, 600_001, 1000.5, True, 1e99)
        ),
    ],
)
def test_what_cannot_be_read_is_refused_in_the_references_words(body: object, message: str) -> None:
    with pytest.raises(Refusal) as refusal:
        parse(body)
    assert (refusal.value.code, refusal.value.message) == (Code.INVALID_REQUEST, message)


@pytest.mark.parametrize("text", ["\0", "a\nb", "x" * 1025, "/"])
def test_names_that_no_stream_can_have_are_refused(text: str) -> None:
    for body in ({**PULL, "pattern": text}, {**PULL, "streams": [text]}, {**PULL, "wake_stream": text}):
        with pytest.raises(Refusal):
            parse(body)


def test_an_unsafe_webhook_has_its_own_code() -> None:
    with pytest.raises(Refusal) as refusal:
        parse({**HOOK, "webhook": {"url": "http://10.0.0.1/hook"}})
    assert refusal.value.code is Code.WEBHOOK_URL_REJECTED


def test_the_same_asked_for_in_another_way_has_the_same_hash() -> None:
    one = parse({**HOOK, "streams": ["a", "b"], "lease_ttl_ms": 30_000, "ignored": 1})
    two = parse({**HOOK, "streams": ["/b", "a/", "a"], "lease_ttl_ms": 30_000.0, "description": None})
    assert one.config_hash == two.config_hash


@pytest.mark.parametrize(
    "change",
    [
        {"pattern": "events/**"},
        {"streams": ["a"]},
        {"webhook": {"url": "https://worker.example/other"}},
        {"wake_stream": "wake"},
        {"lease_ttl_ms": 1000},
        {"description": "mine"},
    ],
)
def test_every_field_is_part_of_the_hash(change: dict[str, Any]) -> None:
    assert parse(HOOK).config_hash != parse({**HOOK, **change}).config_hash


def test_a_settlement_is_read_leniently_and_never_by_accident() -> None:
    body = {
        "wake_id": "w_1",
        "generation": 7,
        "done": "yes",
        "acks": [
            {"stream": "/a/", "offset": "0000000000000000_0000000000000042"},
            {"path": "b", "stream": None, "offset": "-1"},
            {"path": "c", "offset": "now"},
        ],
    }
    settlement = rules.parse_settlement(body)
    assert settlement == rules.Settlement(7, "w_1", (Ack("a", 42), Ack("b", None), Ack("c", None)), False)
    for generation in (True, "7", 7.5, None, -1, 2**70):
        assert rules.parse_settlement({"generation": generation}).generation is None
    assert rules.parse_settlement({"wake_id": "a\0"}).wake_id is None
    assert rules.parse_settlement({"acks": None}).acks == ()


@pytest.mark.parametrize(
    "body", [7, [], {"acks": {}}, {"acks": [7]}, {"acks": [{"stream": "a"}]}, {"acks": [{"offset": "-1"}]}]
)
def test_a_settlement_of_the_wrong_shape_is_refused(body: object) -> None:
    with pytest.raises(Refusal) as refusal:
        rules.parse_settlement(body)
    assert refusal.value.code is Code.INVALID_REQUEST


@pytest.mark.parametrize(
    "body", [None, [], {}, {"worker": ""}, {"worker": 7}, {"worker": "a\0"}, {"worker": "w" * 257}]
)
def test_a_claim_needs_a_worker(body: object) -> None:
    with pytest.raises(Refusal):
        rules.parse_worker(body)


@pytest.mark.parametrize("body", [None, {}, {"streams": "a"}, {"streams": [""]}, {"streams": [7]}])
def test_streams_to_link_are_strings(body: object) -> None:
    with pytest.raises(Refusal):
        rules.parse_streams(body)


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "bearer x", "Basic x"])
def test_a_token_comes_as_a_bearer(header: str | None) -> None:
    with pytest.raises(Refusal) as refusal:
        rules.parse_bearer(header)
    assert refusal.value.code is Code.TOKEN_INVALID


def test_retries_wait_from_a_second_to_a_minute() -> None:
    assert [rules.retry_delay(attempt, 0) for attempt in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]


@given(st.integers(1, 10**9), st.floats(-1, 1))
def test_jitter_is_a_fifth(attempt: int, jitter: float) -> None:
    plain = rules.retry_delay(attempt, 0)
    assert 0.8 * plain - 1e-9 <= rules.retry_delay(attempt, jitter) <= 1.2 * plain + 1e-9


def test_a_link_is_shown_with_offsets() -> None:
    assert Link("a", False, -1, 3, True).work() == {
        "path": "a",
        "link_type": "glob",
        "acked_offset": "-1",
        "tail_offset": "0000000000000000_0000000000000003",
        "has_pending": True,
    }
    assert Link("a", True, 3, 3, False).cursor() == {
        "path": "a",
        "link_type": "explicit",
        "acked_offset": "0000000000000000_0000000000000003",
    }


def test_a_path_has_no_more_bytes_than_an_index_takes() -> None:
    assert rules.parse_path("é" * 1024) == "é" * 1024
    for parse in (lambda: rules.parse_path("🙂" * 513), lambda: rules.parse_streams({"streams": ["🙂" * 513]})):
        with pytest.raises(Refusal, match="at most 2048 bytes"):
            parse()
