"""The history that readers of `?view=history` are shown, as Flue 2.1.0 makes it (`conversation-projections.ts`). Pure.

The order of an object's keys is Flue's own, so that the bytes are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from gateway.flue.conversations.fold import Fold, Message, Record, Step

_DISPLAY: Final = {
    "stream_interrupted": ("advisory", "hidden"),
    "stream_continued": ("advisory", "hidden"),
    "submission_aborted": ("advisory", "diagnostic"),
    "submission_interrupted": ("advisory", "diagnostic"),
    "resources": ("advisory", "diagnostic"),
    "instructions": ("advisory", "diagnostic"),
    "environment": ("advisory", "diagnostic"),
}
_OUTCOMES: Final = {"submission_aborted": "aborted", "submission_interrupted": "failed"}

Shown = dict[str, Any]


def offset_of(seq: int) -> str:
    """The offset of a batch (`stream-offsets.ts`)."""
    return "-1" if seq < 0 else f"{0:016}_{seq:016}"


def snapshot(fold: Fold, seq: int) -> Shown:
    """The whole conversation, after the batch of this number."""
    return {
        "v": 1,
        "conversationId": fold.root,
        "offset": offset_of(seq),
        "messages": _Messages(fold).all(),
        "settlements": [settlement(fold, record) for record in fold.settlements],
    }


def settlement(fold: Fold, record: Record) -> Shown:
    """The outcome of a submission."""
    answered = fold.answered_by(record)
    return {
        "submissionId": record["submissionId"],
        "outcome": record["outcome"],
        **({"error": record["error"]} if "error" in record else {}),
        **({"answeredBySubmissionId": answered} if answered is not None else {}),
    }


def message(record: Record) -> Shown:
    """A user's message, or a signal."""
    signal = record["type"] == "signal"
    purpose, display = ("user", "visible")
    if signal:
        purpose, display = _DISPLAY.get(record["signalType"], ("dispatch", "diagnostic"))
    shown: Shown = {
        "id": record["messageId"],
        "role": "system" if signal else "user",
        "purpose": purpose,
        "display": display,
        **whose(record.get("submissionId"), record.get("turnId")),
    }
    if not signal:
        return {**shown, "parts": [_content(each) for each in record["content"]]}
    more: Shown = {"tagName": record["tagName"]} if record.get("tagName") else {}
    if record.get("attributes") is not None:
        more["attributes"] = record["attributes"]
    if more:
        shown["signal"] = more
    if record["signalType"] in _OUTCOMES:
        shown["settlement"] = {"outcome": _OUTCOMES[record["signalType"]]}
    return {**shown, "parts": [{"type": "text", "text": record["content"], "state": "done"}]}


def whose(submission: str | None, turn: str | None) -> Shown:
    """The ids that a message carries, as far as it has them."""
    return {
        **({"submissionId": submission} if submission else {}),
        **({"turnId": turn} if turn else {}),
    }


def outcome(record: Record) -> Shown:
    """The outcome of a tool call."""
    lasted = {"durationMs": record["durationMs"]} if "durationMs" in record else {}
    content = record["content"]
    if record["isError"]:
        return {"errorText": "\n".join(each.get("text", "") for each in content if each["type"] == "text"), **lasted}
    return {"output": record["output"] if "output" in record else _output(content), **lasted}


def _output(content: Sequence[Record]) -> Any:
    if len(content) == 1 and content[0]["type"] == "text":
        return content[0]["text"]
    return [each if each["type"] == "text" else _image(each["attachment"]) for each in content]


def _image(attachment: Record) -> Shown:
    return {"type": "image", "data": attachment["id"], "mimeType": attachment["mimeType"]}


def _content(content: Record) -> Shown:
    if content["type"] == "text":
        return {"type": "text", "text": content["text"], "state": "done"}
    attachment = content["attachment"]
    return {
        "type": "file",
        "mediaType": attachment["mimeType"],
        "id": attachment["id"],
        "size": attachment["size"],
        **({"filename": attachment["filename"]} if attachment.get("filename") else {}),
    }


class _Messages:
    """The messages of a snapshot. All steps of a response are one message."""

    def __init__(self, fold: Fold) -> None:
        self._fold = fold
        self._messages: list[Shown] = []
        self._responses: dict[str, Shown] = {}  # by submission
        self._superseded = {id for submission in fold.answers for id in fold.superseded(submission)}

    def all(self) -> list[Shown]:
        for entry in self._fold.entries:
            if isinstance(entry, Message):
                self._messages.append(message(entry.record))
            elif isinstance(entry, Step):
                self._step(entry)
            else:
                self._result(entry.record)
        for step in self._fold.open.values():
            self._step(step, in_progress=True)
        return self._messages

    def _step(self, step: Step, *, in_progress: bool = False) -> None:
        parts = [] if step.id in self._superseded else _parts(step, in_progress)
        goes_on = not in_progress or step.parent == self._fold.leaf
        shown = self._responses.get(step.submission) if step.submission and goes_on else None
        if shown is None:
            shown = {
                "id": step.id,
                "role": "assistant",
                "purpose": "assistant",
                "display": "visible",
                **whose(step.submission, step.turn),
                "parts": parts,
            }
            self._messages.append(shown)
            if step.submission in self._fold.metadata:
                shown["metadata"] = self._fold.metadata[step.submission]
            if step.submission and not in_progress:
                self._responses[step.submission] = shown
        else:
            shown["parts"] += parts
        for name, part in self._fold.data.get(step.submission or "", {}).items():
            if part.anchor == step.id:
                shown["parts"].append({"type": f"data-{name}", "data": part.data})

    def _result(self, record: Record) -> None:
        """An outcome takes the place of the last such call that has none yet."""
        for shown in reversed(self._messages):
            parts = shown["parts"]
            for at in range(len(parts) - 1, -1, -1):
                part = parts[at]
                if part.get("toolCallId") == record["toolCallId"] and part["state"] == "input-available":
                    parts[at] = {
                        "type": "dynamic-tool",
                        "toolName": part["toolName"],
                        "toolCallId": part["toolCallId"],
                        "state": "output-error" if record["isError"] else "output-available",
                        "input": part["input"],
                        **outcome(record),
                    }
                    return


def _parts(step: Step, in_progress: bool) -> list[Shown]:
    parts: list[Shown] = []
    for block in step.ordered:
        if block.call is None:
            state = "streaming" if in_progress and not block.done else "done"
            parts.append({"type": block.kind, "text": "".join(block.deltas), "state": state})
        else:
            parts.append(
                {
                    "type": "dynamic-tool",
                    "toolCallId": block.call["toolCallId"],
                    "toolName": block.call["name"],
                    "input": block.call["arguments"],
                    "state": "input-available",
                }
            )
    return parts
