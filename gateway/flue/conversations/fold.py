"""A conversation as Flue 2.1.0 folds it from its records, in their order (`conversation-reducer.ts`). Pure.

Only what readers are shown is kept. A record that Flue 2.1.0 would refuse, or that it does not know, is Unreadable, as
are two records of one id, which Flue takes for one.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.flue.conversations.errors import Unreadable

Record = Mapping[str, Any]

LACKS: Final = (KeyError, TypeError, AttributeError, IndexError)
"""The error for a record that has not all that it should have."""
# JSON has these as keys, but Flue's merge leaves them out (`message-output.ts`).
_NEVER_MERGED: Final = frozenset(("__proto__", "constructor", "prototype"))


@dataclass(slots=True)
class Block:
    """A part of a step. `call`: the record of a tool call, of which there is no text."""

    index: int
    kind: str
    call: Record | None = None
    deltas: list[str] = field(default_factory=list)
    done: bool = False


@dataclass(slots=True)
class Step:
    """A step of a response, of which there may be several: what a model said at one go. `parent`: the entry before."""

    id: str
    parent: str | None
    submission: str | None
    turn: str | None
    blocks: dict[str, Block] = field(default_factory=dict)
    error: bool = False

    @property
    def ordered(self) -> list[Block]:
        return sorted(self.blocks.values(), key=lambda block: block.index)

    @property
    def calls(self) -> Iterator[Record]:
        return (block.call for block in self.ordered if block.call is not None)


@dataclass(slots=True)
class Message:
    """A user's message, or a signal."""

    record: Record


@dataclass(slots=True)
class Result:
    """The outcome of a tool call."""

    record: Record


@dataclass(slots=True)
class DataPart:
    """Data that a response carries beside its text. `anchor`: the step behind which it stands."""

    anchor: str
    data: Any


class Fold:
    """The root conversation of a stream, after all records that were applied. Its children are never shown."""

    def __init__(self) -> None:
        self.root: str | None = None
        self.entries: list[Message | Step | Result] = []
        self.open: dict[str, Step] = {}  # steps in progress
        self.answers: dict[str, list[Step]] = {}  # the completed ones, by submission
        self.steps: dict[str, Step] = {}
        self.results: dict[tuple[str, str], Record] = {}  # outcomes of tool calls, by step and call
        self.metadata: dict[str, dict[str, Any]] = {}  # by submission, as the data parts
        self.data: dict[str, dict[str, DataPart]] = {}
        self.settlements: list[Record] = []
        self._attempts: dict[str, str] = {}  # submissions whose response was run in an attempt
        self._outcomes: dict[str, Record] = {}  # not committed yet, by their records' ids
        self._last: dict[str, str] = {}  # step that was completed last, by submission that has not settled
        self.leaf: str | None = None  # the last entry's id
        self._ids: set[str] = set()

    def apply(self, records: Iterable[Record]) -> None:
        """Applies a batch. Raises Unreadable, and LACKS for a record that lacks something. Use it no more then."""
        for record in records:
            self._apply(record)

    def response(self, submission: str | None) -> str | None:
        """The message that all steps of a submission's response are shown as: the first of them."""
        if not submission:
            return None
        steps = self.answers.get(submission) or [each for each in self.open.values() if each.submission == submission]
        return steps[0].id if steps else None

    def superseded(self, submission: str) -> set[str]:
        """Steps that ended with an error, and upon which the same response went on: their content is not shown."""
        steps = self.answers.get(submission, [])
        goes_on = any(step.submission == submission for step in self.open.values())
        return {step.id for at, step in enumerate(steps) if step.error and (goes_on or at + 1 < len(steps))}

    def answered_by(self, settled: Record) -> str | None:
        """The submission whose response has answered one that settled."""
        attempt = settled.get("attemptId")
        return self._attempts.get(attempt) if isinstance(attempt, str) else None

    def _apply(self, record: Record) -> None:
        kind = record["type"]
        handler = _HANDLERS.get(kind)
        if record["v"] != 1 or handler is None:
            raise Unreadable(f"A record is of an unknown type or version: {kind}.")
        if kind not in _DELTAS:  # which have numbers
            self._once(record["id"])
        if kind == "assistant_message_started" and record.get("attemptId") and record.get("submissionId"):
            self._attempts[record["attemptId"]] = record["submissionId"]
        if kind == "conversation_created":
            self._created(record)
        elif self.root is None:
            raise Unreadable("A stream begins with another record than that of its conversation.")
        elif record["conversationId"] == self.root:
            handler(self, record)

    def _once(self, id: str) -> None:
        if id in self._ids:
            raise Unreadable("Two records have the same id.")
        self._ids.add(id)

    def _created(self, record: Record) -> None:
        if record["kind"] == "root":
            if self.root is not None:
                raise Unreadable("A stream has two root conversations.")
            self.root = record["conversationId"]

    def _append(self, id: str, parent: str | None) -> None:
        """Entries follow one another in a line."""
        if parent != self.leaf or self.open:
            raise Unreadable("An entry does not follow the one before it.")
        self.leaf = id

    def _message(self, record: Record) -> None:
        self._append(record["messageId"], record["parentId"])
        self.entries.append(Message(record))

    def _started(self, record: Record) -> None:
        id, submission = record["messageId"], record.get("submissionId")
        if record["parentId"] != self.leaf or id in self.open or id in self.steps:
            raise Unreadable("A step does not follow the entry before it.")
        self.open[id] = Step(id, record["parentId"], submission, record.get("turnId"))
        if record.get("responseMetadata") is not None:
            self._merge(submission, record["responseMetadata"])

    def _block(self, record: Record, kind: str, call: Record | None = None) -> None:
        blocks = self.open[record["messageId"]].blocks
        index = record["blockIndex"]
        if record["blockId"] in blocks or any(block.index == index for block in blocks.values()):
            raise Unreadable("Two blocks of a step are the same.")
        blocks[record["blockId"]] = Block(index, kind, call)

    def _text_of(self, record: Record, kind: str) -> Block:
        block = self.open[record["messageId"]].blocks[record["blockId"]]
        if block.kind != kind or block.done:
            raise Unreadable("A block is of another kind, or complete.")
        return block

    def _delta(self, record: Record, kind: str) -> None:
        block = self._text_of(record, kind)
        if record["sequence"] != len(block.deltas):
            raise Unreadable("A delta is missing, or there twice.")
        block.deltas.append(record["delta"])

    def _block_completed(self, record: Record, kind: str) -> None:
        block = self._text_of(record, kind)
        if record["deltaCount"] != len(block.deltas):
            raise Unreadable("A block lacks a delta.")
        block.deltas = ["".join(block.deltas)]
        block.done = True

    def _completed(self, record: Record) -> None:
        step = self.open.pop(record["messageId"])
        if step.parent != self.leaf or not all(block.done or block.call for block in step.blocks.values()):
            raise Unreadable("A step is not complete.")
        self.leaf = step.id
        step.error = record.get("stopReason") == "error"
        self.steps[step.id] = step
        self.entries.append(step)
        if step.submission:
            self.answers.setdefault(step.submission, []).append(step)
            self._last[step.submission] = step.id

    def _outcome(self, record: Record) -> None:
        self._outcomes[record["id"]] = record

    def _committed(self, record: Record) -> None:
        id, parent = record["assistantMessageId"], record["parentId"]
        outcomes = [self._outcomes.pop(outcome) for outcome in record["outcomeIds"]]
        calls = [call["toolCallId"] for call in self.steps[id].calls]
        if parent != id or [outcome["toolCallId"] for outcome in outcomes] != calls:
            raise Unreadable("Results of tools are not those of their step.")
        for outcome in outcomes:
            entry = f"entry_tool_result_{_encoded(id)}_{_encoded(outcome['toolCallId'])}"
            self._append(entry, parent)
            self.results[id, outcome["toolCallId"]] = outcome
            self.entries.append(Result(outcome))
            parent = entry

    def _compaction(self, record: Record) -> None:
        self._append(record["entryId"], record["parentId"])

    def _settled(self, record: Record) -> None:
        submission = record["submissionId"]
        self.open = {id: step for id, step in self.open.items() if step.submission != submission}
        self._last.pop(submission, None)
        self.settlements.append(record)

    def _metadata(self, record: Record) -> None:
        self._merge(record["submissionId"], record["metadata"])

    def _merge(self, submission: str | None, metadata: Mapping[str, Any]) -> None:
        if not submission:
            raise Unreadable("Metadata belongs to no submission.")
        self.metadata[submission] = merged(self.metadata.get(submission, {}), metadata)

    def _data_write(self, record: Record) -> None:
        submission, name = record["submissionId"], record["name"]
        anchor = self._last[submission]
        parts = self.data.setdefault(submission, {})
        if name in parts:
            parts[name].data = record["data"]
        else:
            parts[name] = DataPart(anchor, record["data"])

    def _unseen(self, record: Record) -> None:
        """Applies a record of which nothing is shown."""


def merged(base: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of both, object by object; the later values win."""
    found = dict(base)
    for key, value in new.items():
        if key not in _NEVER_MERGED:
            old = found.get(key)
            found[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return found


def _encoded(id: str) -> str:
    return urlsafe_b64encode(id.encode()).decode().rstrip("=")


_DELTAS: Final = frozenset(("assistant_text_delta", "assistant_reasoning_delta"))
_HANDLERS: Final[Mapping[str, Callable[[Fold, Record], None]]] = {
    "conversation_created": Fold._unseen,
    "user_message": Fold._message,
    "signal": Fold._message,
    "assistant_message_started": Fold._started,
    "assistant_text_started": lambda fold, record: fold._block(record, "text"),
    "assistant_text_delta": lambda fold, record: fold._delta(record, "text"),
    "assistant_text_completed": lambda fold, record: fold._block_completed(record, "text"),
    "assistant_reasoning_started": lambda fold, record: fold._block(record, "reasoning"),
    "assistant_reasoning_delta": lambda fold, record: fold._delta(record, "reasoning"),
    "assistant_reasoning_completed": lambda fold, record: fold._block_completed(record, "reasoning"),
    "assistant_tool_call": lambda fold, record: fold._block(record, "tool", record),
    "assistant_message_completed": Fold._completed,
    "tool_outcome": Fold._outcome,
    "tool_results_committed": Fold._committed,
    "compaction": Fold._compaction,
    "submission_settled": Fold._settled,
    "message_metadata": Fold._metadata,
    "message_data_write": Fold._data_write,
    "child_session_retained": Fold._unseen,
    "tool_step_settled": Fold._unseen,
    "state_write": Fold._unseen,
    "resource_snapshot": Fold._unseen,
    "agent_start_run": Fold._unseen,
    "agent_finish_cycle": Fold._unseen,
}
