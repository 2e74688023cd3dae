"""PUT, POST, DELETE, HEAD and OPTIONS over real sockets (§5.1–5.5)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.protocol import json_body
from tests.http.answers import JSON, START, at, content, refusal
from tests.servers import Client, Running


def producer(epoch: int | str, seq: int | str, id: str = "p") -> dict[str, str]:
    return JSON | {"Producer-Id": id, "Producer-Epoch": str(epoch), "Producer-Seq": str(seq)}


# PUT


async def test_a_stream_is_created_and_says_where_it_is(client: Client, path: str) -> None:
    made = await client("PUT", path, headers={"Content-Type": "Text/Plain; a=B"}, content=b"hi")
    assert made.status_code == 201
    assert made.headers["location"] == client.url.rstrip("/") + path
    assert made.headers["content-type"] == "Text/Plain; a=B"
    assert made.headers["stream-next-offset"] == at(1)
    assert "stream-closed" not in made.headers
    again = await client("PUT", path, headers={"Content-Type": "text/plain"}, content=b"hi")
    assert again.status_code == 200
    assert again.headers["stream-next-offset"] == at(1)
    assert "location" not in again.headers


async def test_without_a_content_type_it_holds_bytes(client: Client, path: str) -> None:
    assert (await client("PUT", path)).headers["content-type"] == "application/octet-stream"


async def test_the_location_is_the_url_as_it_was_asked_for(gateway: Running, run: str) -> None:
    answer = await gateway.raw(
        f"PUT {run}%20x%C3%A9?a=b HTTP/1.1\r\nHost: example.org:81\r\nConnection: close\r\n\r\n".encode()
    )
    assert f"\r\nlocation: http://example.org:81{run}%20x%C3%A9\r\n".encode() in answer


@pytest.mark.parametrize("body", ["[]", " [ ] "])
async def test_an_empty_array_creates_an_empty_json_stream(client: Client, path: str, body: str) -> None:
    made = await client("PUT", path, headers=JSON, content=body)
    assert (made.status_code, made.headers["stream-next-offset"]) == (201, START)
    assert await content(client, path) == []


async def test_another_configuration_is_a_conflict(client: Client, path: str) -> None:
    await client("PUT", path, headers=JSON)
    assert refusal(await client("PUT", path, headers={"Content-Type": "text/plain"})) == (409, "stream_exists")
    assert refusal(await client("PUT", path, headers=JSON | {"Stream-Closed": "true"})) == (409, "stream_exists")


async def test_it_may_be_born_closed(client: Client, path: str) -> None:
    made = await client("PUT", path, headers=JSON | {"Stream-Closed": "TRUE"}, content="[1]")
    assert (made.status_code, made.headers["stream-closed"]) == (201, "true")
    assert refusal(await client("POST", path, headers=JSON, content="2")) == (409, "stream_closed")


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ({"Stream-TTL": "-1"}, b"", (400, "invalid_request")),
        ({"Stream-TTL": "1", "Stream-Expires-At": "2099-01-01T00:00:00Z"}, b"", (400, "invalid_request")),
        ({"Stream-Expires-At": "tomorrow"}, b"", (400, "invalid_request")),
        ({"Stream-Expires-At": "9999-12-31T23:59:59-01:00"}, b"", (400, "invalid_request")),
        (JSON, b"{", (400, "invalid_json")),
        ({"Stream-Fork-Offset": START}, b"", (400, "invalid_request")),
        ({"Stream-Forked-From": "/v1/stream/nowhere-at-all"}, b"", (404, "source_not_found")),
        ({"Stream-Forked-From": "https://elsewhere/"}, b"", (404, "source_not_found")),
    ],
)
async def test_a_creation_that_cannot_be_is_refused_and_makes_nothing(
    client: Client, path: str, headers: dict[str, str], body: bytes, expected: tuple[int, str]
) -> None:
    assert refusal(await client("PUT", path, headers=headers, content=body)) == expected
    assert (await client("HEAD", path)).status_code == 404


async def test_a_fork_is_made_by_the_path_of_its_sources_url(client: Client, path: str, run: str) -> None:
    await client("PUT", run, headers=JSON, content="[1,2,3]")
    forked = await client("PUT", path, headers={"Stream-Forked-From": run, "Stream-Fork-Offset": at(2)})
    assert (forked.status_code, forked.headers["content-type"]) == (201, "application/json")
    assert await content(client, path) == [1, 2]
    headers = {"Stream-Forked-From": run, "Stream-Fork-Offset": at(1), "Stream-Fork-Sub-Offset": "5"}
    assert refusal(await client("PUT", path + "-b", headers=headers)) == (400, "invalid_fork_sub_offset")
    headers = {"Stream-Forked-From": run, "Stream-Fork-Offset": at(4)}
    assert refusal(await client("PUT", path + "-b", headers=headers)) == (400, "invalid_fork_offset")
    headers = {"Stream-Forked-From": run, "Content-Type": "text/plain"}
    assert refusal(await client("PUT", path + "-b", headers=headers)) == (409, "content_type_mismatch")

    assert (await client("DELETE", run)).status_code == 204
    for method in ("GET", "POST", "DELETE"):
        assert refusal(await client(method, run, headers=JSON, content="1")) == (410, "stream_gone")
    assert (await client("HEAD", run)).status_code == 410
    assert refusal(await client("PUT", run, headers=JSON)) == (409, "path_blocked")
    assert refusal(await client("PUT", path + "-b", headers={"Stream-Forked-From": run})) == (409, "source_gone")
    assert await content(client, path) == [1, 2]


# POST


async def test_an_append_is_answered_with_the_next_offset_and_no_body(client: Client, path: str) -> None:
    await client("PUT", path, headers=JSON)
    answer = await client("POST", path, headers=JSON, content='[{"a": 1}, 2]')
    assert (answer.status_code, answer.headers["stream-next-offset"], answer.content) == (204, at(2), b"")
    assert await content(client, path) == [{"a": 1}, 2]


async def test_closing_twice_succeeds_and_appending_after_it_does_not(client: Client, path: str) -> None:
    await client("PUT", path, headers=JSON)
    closing = await client("POST", path, headers=JSON | {"Stream-Closed": "true"}, content="1")
    assert (closing.status_code, closing.headers["stream-closed"]) == (204, "true")
    again = await client("POST", path, headers={"Stream-Closed": "true", "Content-Type": "text/html"})
    assert (again.status_code, again.headers["stream-closed"], again.headers["stream-next-offset"]) == (
        204,
        "true",
        at(1),
    )
    for headers in (JSON, JSON | {"Stream-Closed": "true"}, {"Content-Type": "text/plain"}):
        refused = await client("POST", path, headers=headers, content="2")
        assert refusal(refused) == (409, "stream_closed"), "closed is judged first (§5.2)"
        assert (refused.headers["stream-closed"], refused.headers["stream-next-offset"]) == ("true", at(1))
    refused = await client("POST", path, headers=JSON, content="{")
    assert refusal(refused) == (409, "stream_closed")


async def test_a_producer_is_told_what_was_new_and_what_was_not(client: Client, path: str) -> None:
    await client("PUT", path, headers=JSON)
    new = await client("POST", path, headers=producer(0, 0), content="1")
    assert (new.status_code, new.headers["producer-epoch"], new.headers["producer-seq"]) == (200, "0", "0")
    await client("POST", path, headers=producer(0, 1), content="2")
    repeated = await client("POST", path, headers=producer(0, 0), content="1")
    assert (repeated.status_code, repeated.headers["producer-seq"]) == (204, "1")
    gap = await client("POST", path, headers=producer(0, 5), content="3")
    assert refusal(gap) == (409, "producer_sequence_gap")
    assert (gap.headers["producer-expected-seq"], gap.headers["producer-received-seq"]) == ("2", "5")
    assert (await client("POST", path, headers=producer(3, 0), content="3")).status_code == 200
    stale = await client("POST", path, headers=producer(2, 0), content="4")
    assert (*refusal(stale), stale.headers["producer-epoch"]) == (403, "stale_epoch", "3")
    assert refusal(await client("POST", path, headers=producer(4, 1), content="4")) == (400, "invalid_epoch_start")
    closing = producer(3, 1) | {"Stream-Closed": "true"}
    assert (await client("POST", path, headers=closing, content="4")).status_code == 200
    repeated = await client("POST", path, headers=closing, content="4")
    assert (repeated.status_code, repeated.headers["stream-closed"]) == (204, "true")
    assert await content(client, path) == [1, 2, 3, 4]


async def test_a_stream_seq_only_grows(client: Client, path: str) -> None:
    await client("PUT", path, headers=JSON)
    assert (await client("POST", path, headers=JSON | {"Stream-Seq": "B"}, content="1")).status_code == 204
    for seq in ("B", "A", "0"):
        assert refusal(await client("POST", path, headers=JSON | {"Stream-Seq": seq}, content="2")) == (
            409,
            "stream_seq_conflict",
        )
    assert (await client("POST", path, headers=JSON | {"Stream-Seq": "a"}, content="2")).status_code == 204
    assert await content(client, path) == [1, 2]


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        (JSON, b"", (400, "invalid_request")),
        ({}, b"x", (400, "invalid_request")),
        (JSON, b"[]", (400, "invalid_json")),
        (JSON, b"{", (400, "invalid_json")),
        (JSON, b"\xff", (400, "invalid_json")),
        ({"Content-Type": "text/plain"}, b"x", (409, "content_type_mismatch")),
        ({"Content-Type": "nonsense"}, b"x", (400, "invalid_request")),
        (producer("1e3", 0), b"1", (400, "invalid_request")),
        (producer(0, ""), b"1", (400, "invalid_request")),
        (producer(0, 0, ""), b"1", (400, "invalid_request")),
        (JSON | {"Producer-Id": "p"}, b"1", (400, "invalid_request")),
        (JSON | {"Stream-Seq": ""}, b"1", (400, "invalid_request")),
    ],
)
async def test_an_append_that_cannot_be_is_refused_and_changes_nothing(
    client: Client, path: str, headers: dict[str, str], body: bytes, expected: tuple[int, str]
) -> None:
    await client("PUT", path, headers=JSON, content="[1]")
    assert refusal(await client("POST", path, headers=headers, content=body)) == expected
    assert await content(client, path) == [1]


async def test_a_wrong_content_type_is_named(client: Client, path: str) -> None:
    await client("PUT", path, headers=JSON)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    refused = (await client("POST", path, headers=form, content=b"1")).json()["error"]
    assert refused["details"] == "The request's is application/x-www-form-urlencoded, the stream's application/json."


async def test_deep_nesting_is_kept_and_too_deep_nesting_refused(client: Client, path: str) -> None:
    await client("PUT", path, headers=JSON)
    deep = b"[" * 1000 + b"]" * 1000
    assert (await client("POST", path, headers=JSON, content=b"[%b,1]" % deep)).status_code == 204
    assert (await client("GET", path)).content == b"[%b,1]" % deep
    assert refusal(await client("POST", path, headers=JSON, content=b"[" * 2000)) == (400, "invalid_json")


@pytest.mark.parametrize(
    "name", ["Content-Type", "Stream-Closed", "Stream-Seq", "Producer-Id", "Producer-Epoch", "Producer-Seq"]
)
async def test_a_doubled_header_is_refused(client: Client, path: str, name: str) -> None:
    await client("PUT", path, headers=JSON)
    headers = [*(producer(0, 0) | {"Stream-Seq": "a", "Stream-Closed": "x"}).items()]
    headers += [(name, value) for other, value in headers if other == name]
    assert refusal(await client("POST", path, headers=headers, content="1")) == (400, "invalid_request")
    assert await content(client, path) == []


async def test_a_body_that_is_cut_off_appends_nothing(client: Client, gateway: Running, path: str) -> None:
    await client("PUT", path, headers={"Content-Type": "text/plain"})
    head = f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Type: text/plain\r\n"
    for request in (head + "Content-Length: 10\r\n\r\nhalf", head + "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(request.encode())
        writer.write_eof()
        await reader.read()
        writer.close()
        await writer.wait_closed()
    assert (await client("GET", path)).content == b""


async def test_a_body_in_chunks_is_one_append(client: Client, gateway: Running, path: str) -> None:
    await client("PUT", path, headers={"Content-Type": "text/plain"})
    answer = await gateway.raw(
        f"POST {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Type: text/plain\r\n"
        "Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n".encode()
    )
    assert answer.startswith(b"HTTP/1.1 204 ")
    head = await client("HEAD", path)
    assert head.headers["stream-next-offset"] == at(1)


# HEAD, DELETE, OPTIONS and the rest


async def test_head_tells_everything_without_a_body(client: Client, gateway: Running, path: str) -> None:
    await client("PUT", path, headers={"Content-Type": "text/plain", "Stream-TTL": "3600"}, content=b"x")
    head = await client("HEAD", path)
    assert head.status_code == 200
    assert {name: head.headers[name] for name in ("content-type", "stream-next-offset", "stream-ttl")} == {
        "content-type": "text/plain",
        "stream-next-offset": at(1),
        "stream-ttl": "3600",
    }
    assert head.headers["cache-control"] == "no-store"
    raw = await gateway.get_raw(path, method="HEAD")
    assert raw.endswith(b"\r\n\r\n")
    assert raw.count(b"\r\n\r\n") == 1


async def test_head_of_what_is_not_there_has_no_body_either(gateway: Running, path: str) -> None:
    raw = await gateway.get_raw(path, method="HEAD")
    assert raw.startswith(b"HTTP/1.1 404 ")
    assert raw.count(b"\r\n\r\n") == 1
    assert raw.endswith(b"\r\n\r\n")


async def test_expiry_is_echoed_as_it_was_given(client: Client, path: str) -> None:
    await client("PUT", path, headers={"Stream-Expires-At": "2099-01-02T03:04:05.60+01:00"})
    assert (await client("HEAD", path)).headers["stream-expires-at"] == "2099-01-02T03:04:05.60+01:00"


async def test_a_deleted_stream_is_not_there(client: Client, path: str) -> None:
    await client("PUT", path, headers=JSON)
    assert (await client("DELETE", path)).status_code == 204
    for method in ("GET", "POST", "DELETE"):
        assert refusal(await client(method, path, headers=JSON, content="1")) == (404, "stream_not_found")


async def test_options_answers_for_what_is_not_there(client: Client, path: str) -> None:
    answer = await client("OPTIONS", path)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "if-none-match" in answer.headers["access-control-allow-headers"]
    assert "DELETE" in answer.headers["access-control-allow-methods"]


@pytest.mark.parametrize("method", ["PATCH", "TRACE", "PROPFIND"])
async def test_other_methods_are_refused_by_name(client: Client, path: str, method: str) -> None:
    answer = await client(method, path)
    assert refusal(answer) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, HEAD, PUT, POST, DELETE, OPTIONS"


@pytest.mark.parametrize("target", ["/nothing", "/runs/", "/v1/stream/", "/v1/streams", "/v2/stream/a"])
async def test_what_is_no_address_is_refused_in_the_same_shape(client: Client, target: str) -> None:
    assert refusal(await client("GET", target)) == (404, "route_not_found")


async def test_a_method_that_a_route_lacks_gets_the_common_refusal(client: Client) -> None:
    answer = await client("POST", "/health")
    assert refusal(answer) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "GET"


async def test_both_routes_lead_to_the_same_run(client: Client, run: str) -> None:
    assert (await client("PUT", run, headers=JSON, content="[1]")).status_code == 201
    other = "/v1/stream" + run
    assert (await client("PUT", other, headers=JSON)).status_code == 200
    assert (await client("POST", other, headers=JSON, content="2")).status_code == 204
    assert await content(client, run) == await content(client, other) == [1, 2]
    assert (await client("DELETE", run)).status_code == 204
    assert (await client("HEAD", other)).status_code == 404


ODD = {
    "floats": b"[%b]" % b",".join([b"1.5e3"] * 2_000),
    "half an emoji": b'[%b,"\\ud83d"]' % b",".join([b"1"] * 4_000),
    "line breaks": b"[%b]" % b"\n,\n".join([b"1"] * 2_000),
    "a fault": b"[%b,nul]" % b",".join([b'{"a":1}'] * 1_000),
}


@pytest.mark.parametrize("way", ["POST", "POST, with a query", "PUT"])
@pytest.mark.parametrize("kind", ODD)
async def test_no_body_that_takes_long_to_cut_is_cut_at_once(
    client: Client, path: str, way: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted, not timed: what is cut without giving way is short."""
    lengths: list[int] = []

    def at_once(work: Any) -> Any:
        lengths.append(len(work.gi_frame.f_locals.get("body", b"")))
        return run_out(work)

    run_out = json_body.at_once
    monkeypatch.setattr(json_body, "at_once", at_once)
    if way == "PUT":
        answer = await client("PUT", path, headers=JSON, content=ODD[kind])
    else:
        await client("PUT", path, headers=JSON)
        answer = await client("POST", path + "?a" * ("query" in way), headers=JSON, content=ODD[kind])
    assert answer.status_code == (400 if kind == "a fault" else 201 if way == "PUT" else 204)
    assert max(lengths, default=0) <= json_body.SHORT
