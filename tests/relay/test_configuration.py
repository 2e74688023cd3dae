"""Rows from the environment and from a file: what they mean, and what is refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.relay.configuration import presets, rows_of
from gateway.relay.errors import BadRow
from gateway.relay.keys import Asked
from gateway.relay.rows import Row, read_row

RELAY_MD = """
[[relay]]
start  = "POST /api/chat"
key    = "body:id"
resume = ["GET /api/chat/{key}/stream"]
idle   = 204
grace  = 30
stop   = "POST /api/chat/{key}/stop"
lost   = 'data: {"type":"error","errorText":"The agent server is gone."}'
stopped = 'data: {"type":"abort"}'

[[relay]]
start  = "POST /api/chat"
answer = { x-workflow-run-id = "{run}" }
resume = ["GET /api/chat/{run}/stream"]
cursor = "startIndex = frames"

[[relay]]
start  = ["POST /threads/{thread}/runs/stream", "POST /runs/stream"]
key    = "response:location"
ids    = true
resume = ["GET {key}"]
leave  = "body:on_disconnect"
lost   = 'event: error\\ndata: {"error":"ProducerLost","message":"The agent server is gone."}'

[[relay]]
start  = "POST /v1/responses"
when   = { stream = true, background = true }
drop   = ["background"]
key    = "frame:response.id"
resume = ["GET /v1/responses/{key}?stream=true"]
cursor = "starting_after > sequence_number"
stop   = "POST /v1/responses/{key}/cancel"
"""


REJOIN = "[[relay]]\nstart = 'POST /x/{a}'\nrejoin = "


def written(tmp_path: Path, text: str) -> tuple[Row, ...]:
    file = tmp_path / "relay.toml"
    file.write_text(text)
    return rows_of(None, file)


@pytest.mark.parametrize("name", presets())
def test_each_preset_can_be_read_at_any_path(name: str) -> None:
    for path in ("/api/chat", "/"):
        (row,) = rows_of(f"{name}:{path}", None)
        assert row.name == f"{name}:{path}"
        assert row.lost_frame.endswith("\n")


def test_rows_are_tried_in_the_order_in_which_they_stand(tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_text('[[relay]]\nname = "own"\nstart = "POST /x"\n')
    rows = rows_of("ai-sdk:/api/chat, ag-ui:/agent", file)
    assert [row.name for row in rows] == ["ai-sdk:/api/chat", "ag-ui:/agent", "own"]


def test_a_file_of_rows_is_read(tmp_path: Path) -> None:
    chat, workflow, langgraph, responses = written(tmp_path, RELAY_MD)
    assert chat.lost_frame == 'data: {"type":"error","errorText":"The agent server is gone."}\n\n'
    assert chat.stopped_frame == b'data: {"type":"abort"}\n\n'
    assert workflow.answer == {"x-workflow-run-id": "{run}"}
    assert langgraph.cancels({"on_disconnect": "cancel"}) and not langgraph.cancels({"on_disconnect": "continue"})
    assert responses.takes(Asked([], {}, {}, {"stream": True, "background": True}))
    assert not responses.takes(Asked([], {}, {}, {"stream": True}))


def test_a_row_whose_key_is_not_there_takes_nothing() -> None:
    row = read_row({"name": "x", "start": "POST /x", "key": "body:id"}, "row 1")
    assert row.takes(Asked([], {}, {}, {"id": "c"}))
    assert not row.takes(Asked([], {}, {}, {"id": ""})) and not row.takes(Asked([], {}, {}))


def test_a_row_without_need_of_its_key_takes_what_has_none() -> None:
    row = read_row({"name": "x", "start": "POST /x", "key": "body:id", "keyless": True, "when": {"a": 1}}, "row 1")
    assert row.takes(Asked([], {}, {}, {"a": 1}))
    assert not row.takes(Asked([], {}, {}, {"id": "c"})) and not row.wants(Asked([], {}, {}, {"id": "c"}))


def test_rows_that_say_nothing_of_it_get_the_credential() -> None:
    (row,) = rows_of("ai-sdk:/api/chat", None, "header:authorization, cookie:session")
    assert [str(source) for source in row.credential] == ["header:authorization", "cookie:session"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("start = 'POST /x'", "start is not known here; rows stand under"),
        ("[[relay]]\nkey = 'body:id'", "row 1 (relay-1): start is missing"),
        ("[[relay]]\nname = 'a'\nstart = 'PUT /x'", "row 1 (a): start must be a POST or a GET"),
        ("[[relay]]\nstart = 'GET /x'\nkey = 'body:id'", "start has a GET, which has no body to look at"),
        ("[[relay]]\nstart = 'POST /x'\nkey = 'response:id'\nkeyless = true", "keyless needs a key that is in the"),
        ("[[relay]]\nstart = 'POST x'", "start 'POST x' must be a method and a path"),
        ("[[relay]]\nstart = 'POST /x'\nkey = 'id'", "key 'id' must be a place and a name"),
        ("[[relay]]\nstart = 'POST /x'\nresume = 'GET /x/{key}'", "neither {key} nor {run} says which run"),
        ("[[relay]]\nstart = 'POST /x'\ncursor = 'n'", "cursor 'n' must be such as"),
        ("[[relay]]\nstart = 'POST /x'\nattach = true", "attach needs a key that is in the request"),
        ("[[relay]]\nstart = 'POST /x'\nidle = 500", "idle should be 204, 404 or 'pass'"),
        ("[[relay]]\nstart = 'POST /x'\nids = 'yes'", "ids should be a valid boolean"),
        ("[[relay]]\nstart = 'POST /x'\nfrom = 1", "from is no field of a row"),
        ("[[relay]]\nstart = 'POST /x'\nreplay = 'Set-Cookie'", "replay must not have set-cookie"),
        ("[[relay]]\nstart = 'POST /x'\nleave = 'stop'", "leave "),
        ("[[relay]]\nname='a'\nstart = 'POST /x'\n[[relay]]\nname='a'\nstart='POST /y'", "two rows are called a"),
        (
            "[[relay]]\nstart = 'POST /x'\nauthorize = 'GET /rooms/{room}'",
            "authorize has {room}, which start",
        ),
        (REJOIN + "{ ask = 'GET /x/{b}', by = 'header:x' }", "rejoin has {b}, which nothing gives a value"),
        (REJOIN + "{ ask = 'POST /x/{a}', by = 'header:x' }", "rejoin.ask must be a GET"),
        (REJOIN + "{ ask = 'GET /x', by = 'body:x' }", "rejoin.by must be a header or a field of the query"),
        (REJOIN + "{ ask = 'GET /x', by = 'query:x', last = 'number' }", "rejoin.last 'number' must be id, frames, or"),
        (REJOIN + "{ by = 'header:x' }", "rejoin.ask is missing"),
        ("[[relay]]\nstart = 'POST /x'\ncancel = 'POST {at}/cancel'", "cancel has {at}, which nothing gives"),
        ("[[relay]]\nstart = 'POST /x'\nvalues = { run = 'body:id' }", "values must not have run"),
        ("[relay]\nstart = 'POST /x'", "rows stand under [[relay]]"),
        ("x =", "is not TOML"),
    ],
)
def test_a_row_that_cannot_be_meant_is_refused_in_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(BadRow) as refused:
        written(tmp_path, text)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("relay", "sentence"),
    [
        ("nuxt:/api", "there is no preset nuxt; there are ag-ui, ai-sdk"),
        ("ai-sdk", "a preset needs its path, such as ai-sdk:/api/chat"),
        ("ai-sdk:api", "a preset needs its path"),
        ("ai-sdk:/a,ai-sdk:/a", "two rows are called ai-sdk:/a"),
    ],
)
def test_a_preset_that_cannot_be_meant_is_refused(relay: str, sentence: str) -> None:
    with pytest.raises(BadRow) as refused:
        rows_of(relay, None)
    assert sentence in str(refused.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRow, match="cannot be read"):
        rows_of(None, tmp_path / "none.toml")
