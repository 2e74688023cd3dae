"""Who counts as the same client, what answers of the app's say, and for how long they count."""

from __future__ import annotations

import pytest

from gateway.asgi import Headers, Scope
from gateway.flue.conversations.answered import LASTS, MOST, NAME, Answer, Answered, Claim, Memory, client, digest
from tests.flue.conversations.recorded import recording, written

INCARNATION = recording("chat").incarnation
FLUES: Headers = [
    (b"cache-control", b"no-store"),
    (b"content-type", b"application/json"),
    (b"cross-origin-resource-policy", b"cross-origin"),
    (b"stream-next-offset", b"0000000000000000_0000000000000035"),
    (b"stream-up-to-date", b"true"),
    (b"x-content-type-options", b"nosniff"),
    (b"Content-Length", b"77"),
]
UPDATES = written(recording("chat").updates)


def asked(*headers: tuple[bytes, bytes], host: str = "192.0.2.1") -> bytes:
    scope: Scope = {"client": (host, 4711), "headers": [(b"host", b"h"), (b"authorization", b"Bearer a"), *headers]}
    return client(scope, b"/agents/chat/c")


def said(body: bytes, headers: Headers = FLUES, status: int = 200, *, pieces: int = 7) -> Claim | None:
    answer = Answer(status, headers)
    for at in range(0, len(body), pieces):
        answer.piece(body[at : at + pieces])
    return answer.claim()


def test_a_client_is_all_that_it_says_of_itself() -> None:
    for other in (
        (b"authorization", b"Bearer b"),
        (b"cookie", b"session=1"),
        (b"x-api-key", b"1"),
        (b"x-forwarded-for", b"192.0.2.7"),
        (b"origin", b"https://app.example"),
        (b"baggage", b"user=1"),
        (b"connection", b"authorization"),
        (b"connection", b"keep-alive, authorization"),
    ):
        assert asked(other) != asked()
    assert asked(host="192.0.2.2") != asked()
    assert client({"client": None, "headers": []}, b"/a/1") != client({"client": None, "headers": []}, b"/a/2")


def test_what_a_client_wants_does_not_say_who_it_is() -> None:
    said = ((b"accept", b"text/event-stream"), (b"traceparent", b"00-1-1-00"), (b"fly-request-id", b"1"))
    assert asked(*said, (b"connection", b"Keep-Alive")) == asked()


@pytest.mark.parametrize("pieces", [7, 1 << 20])
@pytest.mark.parametrize("body", [UPDATES, recording("chat").history])
def test_an_answer_of_flues_names_its_stream(body: bytes, pieces: int) -> None:
    assert said(body, pieces=pieces) == Claim(Answered(INCARNATION, [FLUES[2], FLUES[5]]), 36, digest(body))


def test_that_nothing_is_new_says_nothing() -> None:
    assert said(b"[" + written(recording("chat").updates[0]) + b"]") is None


def test_what_an_app_says_on_all_of_its_answers_is_kept() -> None:
    cors = [(b"Access-Control-Allow-Origin", b"https://app.example"), (b"Vary", b"Origin")]
    found = said(UPDATES, [*FLUES, *cors])
    assert found is not None
    assert found.answered.headers[2:] == [(name.lower(), value) for name, value in cors]


@pytest.mark.parametrize(
    "more", [(b"set-cookie", b"a=b"), (b"content-encoding", b"gzip"), (b"etag", b'"1"'), (b"x-trace", b"7")]
)
def test_an_answer_that_may_be_for_this_one_alone_is_not_kept(more: tuple[bytes, bytes]) -> None:
    assert said(UPDATES, [*FLUES, more]) is None


@pytest.mark.parametrize("status", [201, 206, 304, 401, 404, 500])
def test_another_status_is_not_kept(status: int) -> None:
    assert said(UPDATES, status=status) is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages":"' + b"x" * NAME + b',\\"incarnation\\":\\"' + INCARNATION.encode() + b'\\"}"}',
        b'{"hidden":[1],"incarnation":"' + INCARNATION.encode() + b'"}',
        b"<p>" + UPDATES,
        UPDATES.replace(b"inc_", b"inc-", 1),
    ],
)
def test_a_body_that_is_not_flues_is_not_kept(body: bytes) -> None:
    assert said(body) is None


@pytest.mark.parametrize("name", [b"cache-control", b"content-type", b"stream-next-offset"])
def test_an_answer_that_an_app_has_changed_is_not_kept(name: bytes) -> None:
    assert said(UPDATES, [(n, b"public" if n == name else value) for n, value in FLUES]) is None


def test_an_answer_counts_for_minutes() -> None:
    now = 0.0
    memory = Memory(lambda: now)
    answered = Answered(INCARNATION, [])
    memory.note(b"a", answered)
    now = LASTS - 1
    assert memory.get(b"a") is answered
    assert memory.get(b"b") is None
    now = LASTS
    assert memory.get(b"a") is None


def test_another_answer_takes_it_back() -> None:
    memory = Memory(lambda: 0.0)
    memory.note(b"a", Answered(INCARNATION, []))
    memory.note(b"a", None)
    assert memory.get(b"a") is None


def test_only_so_many_clients_are_remembered() -> None:
    memory = Memory(lambda: 0.0)
    for at in range(MOST + 1):
        memory.note(b"%d" % at, Answered(INCARNATION, []))
    assert memory.get(b"0") is None
    assert memory.get(b"1") is not None
