"""The text of the OpenAPI document before its routes, and the answers that it shows. A test compares them with real
ones.

Written for a newcomer who has nothing but `/docs` to write a reader from.
"""

from __future__ import annotations

from typing import Any, Final

INTRODUCTION: Final = """\
Streams of events that outlast connections, Machines and producers, by the
[Durable Streams](https://github.com/durable-streams/durable-streams) protocol. A *run* is the stream at `/runs/{id}`.

**To follow a run in a browser**, from its beginning to its end:

```js
const source = new EventSource("/runs/run-7?offset=-1&live=sse");
source.addEventListener("data", (event) => show(JSON.parse(event.data))); // an array of events
source.addEventListener("control", (event) => { if (JSON.parse(event.data).streamClosed) source.close(); });
```

It reconnects by itself and goes on where it was: every event comes once, in order. A response ends after about a
minute, and at every deploy; only `streamClosed` is the end. An `EventSource` gives up (`readyState` 2) on 401 and 404,
and if its very first request is refused; what else passes by itself, it tries again.

**Without a browser**: `GET` from `offset=-1`, keep `Stream-Next-Offset`, and ask again from there with
`live=long-poll`, until an answer has `Stream-Closed: true`. On 429, 503 and lost connections, wait `Retry-After`
seconds and ask again from the last offset. `@durable-streams/client` (npm) does all of this.

**An offset** is to be kept and sent back as it is; offsets compare as strings.

**A refusal** is `{"error": {"type", "message", "details"}}`. `type` is for programs and never changes.
"""

_EVENTS: Final = [
    {"type": "token", "text": "Hel"},
    {"type": "token", "text": "lo"},
    {"type": "run_end", "isError": False},
]

EVENT_STREAM: Final = """\
retry: 1000
id: 0000000000000000_0000000000000003
event: data
data:[{"type":"token","text":"Hel"},{"type":"token","text":"lo"},{"type":"run_end","isError":false}]

id: 0000000000000000_0000000000000003
event: control
data:{"streamNextOffset":"0000000000000000_0000000000000003","streamClosed":true}

"""

READ: Final[dict[str, dict[str, Any]]] = {
    "application/json": {"events": {"summary": "Events", "value": _EVENTS}},
    "text/event-stream": {
        "to the end": {"summary": "A stream that is closed, from its beginning", "value": EVENT_STREAM}
    },
}
"""By content type: what a GET of a JSON stream may bring."""

RECORD: Final[dict[str, Any]] = {
    "record": {
        "summary": "A run's record (`meta`)",
        "value": {
            "runId": "run-7",
            "workflowName": "chat",
            "status": "completed",
            "startedAt": "2026-11-25T16:34:01.476Z",
            "input": {"text": "hi"},
            "endedAt": "2026-11-25T16:34:01.771Z",
            "isError": False,
            "durationMs": 295,
            "metadata": {"user": "u1"},
            "lease": 30,
        },
    }
}
"""The record of a run. `status` is active, completed, errored or cancelled; an errored one has an `error`."""
