"""The chunks that readers of `?view=updates` are sent of a batch, as Flue 2.1.0 makes them (`conversation-public.ts`).
Pure.

The order of an object's keys is Flue's own, so that the bytes are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import orjson

from gateway.flue.conversations.fold import Fold, Record
from gateway.flue.conversations.history import Shown, message, outcome, settlement, snapshot, whose


def chunks(fold: Fold, records: Sequence[Record], seq: int) -> bytes:
    """The chunks of a batch, with commas between; none for one that shows nothing. `fold` is as after that batch."""
    seen = [record for record in records if record["conversationId"] == fold.root]
    bodies: list[Shown]
    if any(_resets(fold, record) for record in seen):
        bodies = [{"type": "conversation-reset", "conversationId": fold.root, "snapshot": snapshot(fold, seq)}]
    else:
        bodies = [body for record in seen for body in _encoded(fold, record)]
    for index, body in enumerate(bodies):
        body["position"] = {"batch": seq, "index": index}
    return orjson.dumps(bodies)[1:-1]


def _resets(fold: Fold, record: Record) -> bool:
    """Whether a client is told the whole conversation anew: also when a step takes the place of one that failed."""
    if record["type"] in ("conversation_created", "compaction"):
        return True
    if record["type"] != "assistant_message_started" or not record.get("submissionId"):
        return False
    return bool(fold.superseded(record["submissionId"]))


def _encoded(fold: Fold, record: Record) -> list[Shown]:
    encode = _ENCODERS.get(record["type"])
    if encode is None:
        return []
    return [{"type": kind, "conversationId": fold.root, **body} for kind, body in encode(fold, record)]


Bodies = list[tuple[str, Shown]]


def _appended(_: Fold, record: Record) -> Bodies:
    return [("message-appended", {"message": message(record)})]


def _started(fold: Fold, record: Record) -> Bodies:
    body = {"messageId": _shown_as(fold, record), **whose(record.get("submissionId"), record.get("turnId"))}
    if record.get("responseMetadata") is not None:
        body["metadata"] = record["responseMetadata"]
    return [("message-started", body | _when(record))]


def _delta(kind: str) -> Callable[[Fold, Record], Bodies]:
    return lambda fold, record: [
        ("message-delta", {"messageId": _shown_as(fold, record), "kind": kind, "delta": record["delta"]})
    ]


def _call(fold: Fold, record: Record) -> Bodies:
    body = {
        "messageId": _shown_as(fold, record),
        "toolCallId": record["toolCallId"],
        "toolName": record["name"],
        "input": record["arguments"],
    }
    return [("tool-input", body | _when(record))]


def _completed(fold: Fold, record: Record) -> Bodies:
    return [("message-completed", {"messageId": _shown_as(fold, record)} | _when(record))]


def _results(fold: Fold, record: Record) -> Bodies:
    step = record["assistantMessageId"]
    found = (fold.results[step, call["toolCallId"]] for call in fold.steps[step].calls)
    return [
        (
            "tool-output-error" if result["isError"] else "tool-output",
            {"toolCallId": result["toolCallId"], **outcome(result), **_when(result)},
        )
        for result in found
    ]


def _settled(fold: Fold, record: Record) -> Bodies:
    return [("submission-settled", settlement(fold, record) | _when(record))]


def _metadata(fold: Fold, record: Record) -> Bodies:
    response = fold.response(record["submissionId"])
    return [("message-metadata", {"messageId": response, "metadata": record["metadata"]})] if response else []


def _data(fold: Fold, record: Record) -> Bodies:
    response = fold.response(record["submissionId"])
    body = {"messageId": response, "name": record["name"], "data": record["data"]}
    return [("data-part", body)] if response else []


def _shown_as(fold: Fold, record: Record) -> Any:
    return fold.response(record.get("submissionId")) or record["messageId"]


def _when(record: Record) -> Shown:
    return {"timestamp": record["timestamp"]} if record.get("timestamp") else {}


_ENCODERS: Final[Mapping[str, Callable[[Fold, Record], Bodies]]] = {
    "user_message": _appended,
    "signal": _appended,
    "assistant_message_started": _started,
    "assistant_text_delta": _delta("text"),
    "assistant_reasoning_delta": _delta("reasoning"),
    "assistant_tool_call": _call,
    "assistant_message_completed": _completed,
    "tool_results_committed": _results,
    "submission_settled": _settled,
    "message_metadata": _metadata,
    "message_data_write": _data,
}
