"""Answers beside those that a stock Flue server gave to the same requests, over the same rows."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import pytest

from tests.flue.app import App
from tests.flue.transcripts import Answer, parse, transcripts
from tests.servers import Running

TRANSCRIPTS: Final = {transcript.name: transcript for transcript in transcripts()}

# What the gateway's answers have besides Flue's, and why.
MORE: Final = {
    "access-control-allow-origin": "pages of other origins may read, where the gateway is told so",
    "access-control-expose-headers": "the same",
    "x-accel-buffering": "nginx would hold an event stream back",
}
ON_ERRORS: Final = {"cache-control": "a run that is not there yet must not stay so in a cache (RFC 9110 §15.5.5)"}
ON_META: Final = {
    "cache-control": "a record changes",
    "x-content-type-options": "on every answer: what is in it came from somebody",
    "cross-origin-resource-policy": "on every answer",
}


RUNS: Final = (
    ("03a-catchup-offset-minus1-closed", "02b-meta-completed"),
    ("15b-failing-events", "15c-failing-meta"),
)


@pytest.fixture(autouse=True)
async def _rows(app: App) -> None:
    """The rows of the runs that were recorded."""
    for events, meta in (
        ("03a-catchup-offset-minus1-closed", "02b-meta-completed"),
        ("15b-failing-events", "15c-failing-meta"),
    ):
        record: dict[str, Any] = json.loads(TRANSCRIPTS[meta].answer.body)
        if not await app.connection.fetchval("SELECT 1 FROM flue_runs WHERE run_id = $1", record["runId"]):
            await app.play(record, json.loads(TRANSCRIPTS[events].answer.body))


def test_all_transcripts_are_read() -> None:
    assert len(TRANSCRIPTS) == 32
    assert TRANSCRIPTS["06c-sse-at-tail-closed"].answer.body.count(b"event: control\ndata:{") == 1
    assert TRANSCRIPTS["03a-catchup-offset-minus1-closed"].answer.body.startswith(b'[{"type":"run_start"')
    assert len(TRANSCRIPTS["03a-catchup-offset-minus1-closed"].answer.body) == 1050


def alike(ours: Answer, flues: Answer) -> tuple[Answer, Answer]:
    """Both without the listed differences. A header of ours is taken away only where Flue has none."""
    more = dict(MORE)
    if ours.status >= 400:
        more |= ON_ERRORS
    if flues.body[:8] == b'{"runId"':
        more |= ON_META
    headers = {name: value for name, value in ours.headers.items() if name not in more or name in flues.headers}
    body = ours.body
    if flues.headers.get("content-type") == "text/event-stream":
        # No proxy may transform it either; `retry:` and `id:` are what an EventSource resumes by.
        assert headers["cache-control"] == "no-cache, no-transform"
        headers["cache-control"] = "no-cache"
        body = re.sub(rb"(?m)^(retry: 1000|id: [0-9_-]+)\n", b"", body)
    theirs = dict(flues.headers)
    if "stream-cursor" in theirs:  # it moves with the clock
        assert int(headers["stream-cursor"]) > 0
        headers["stream-cursor"] = theirs["stream-cursor"]
    return Answer(ours.status, headers, body), Answer(flues.status, theirs, flues.body)


@pytest.mark.parametrize("name", sorted(TRANSCRIPTS.keys() - {"11b-options"}))
async def test_the_answer_is_flues(gateway: Running, name: str) -> None:
    transcript = TRANSCRIPTS[name]
    ours, flues = alike(parse(await gateway.raw(transcript.request)), transcript.answer)
    assert ours == flues


async def test_options_is_a_preflight_and_answered_as_everywhere(gateway: Running) -> None:
    answer = parse(await gateway.raw(TRANSCRIPTS["11b-options"].request))
    assert answer.status == 204
    assert "access-control-allow-methods" in answer.headers
