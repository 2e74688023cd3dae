"""What readers are shown of rows is what Flue 2.1.0 showed of them, byte for byte; and it is no guess."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.flue.conversations import wire
from gateway.flue.conversations.conversation import Conversation
from gateway.flue.conversations.errors import Gone, Unreadable
from gateway.protocol.batch import Batch
from tests.flue.conversations.recorded import NAMES, Recording, recording, written


def whole(told: Recording) -> Conversation:
    conversation = Conversation("agents/Chat/c", told.incarnation)
    conversation.append(told.batches)
    return conversation


def from_position(conversation: Conversation, position: int) -> bytes:
    """All pages from there, as one answer."""
    shown: list[Any] = []
    while True:
        batch = conversation.page(position).batch
        checkpoint, *chunks = json.loads(wire.updates(conversation.incarnation, batch))
        shown += chunks
        if batch.up_to_date:
            return written([checkpoint, *shown])
        position = batch.end


@pytest.mark.parametrize("name", NAMES)
def test_a_conversation_is_shown_as_flue_itself_shows_it(name: str) -> None:
    told = recording(name)
    conversation = whole(told)
    assert from_position(conversation, 0) == written(told.updates)
    assert conversation.history() == told.history


@pytest.mark.parametrize("name", NAMES)
def test_whoever_comes_back_gets_the_rest(name: str) -> None:
    told = recording(name)
    conversation = whole(told)
    for position in range(conversation.tail + 1):
        assert from_position(conversation, position) == written(told.after(position))
    with pytest.raises(Gone):
        conversation.page(conversation.tail + 1)


@given(name=st.sampled_from(NAMES), cuts=st.sets(st.integers(0, 90)))
def test_how_batches_are_read_changes_nothing(name: str, cuts: set[int]) -> None:
    told = recording(name)
    conversation = Conversation("agents/Chat/c", told.incarnation)
    bounds = [0, *sorted(cut for cut in cuts if cut < len(told.batches)), len(told.batches)]
    for start, end in pairwise(bounds):
        conversation.append(told.batches[start:end])
        assert conversation.tail == end
    assert from_position(conversation, 0) == written(told.updates)
    assert conversation.history() == told.history


def _last(batches: list[list[dict[str, Any]]], kind: str) -> dict[str, Any]:
    return next(record for batch in reversed(batches) for record in batch if record["type"] == kind)


DOUBTS: dict[str, Callable[[list[list[dict[str, Any]]]], object]] = {
    "of a type that is not known": lambda rows: rows[3][0].update(type="user_message_edited"),
    "of another version": lambda rows: rows[3][0].update(v=2),
    "twice": lambda rows: rows.append(rows[0]),
    "without something": lambda rows: _last(rows, "user_message").pop("content"),
    "no record": lambda rows: rows.append([None]),  # type: ignore[list-item]
    "behind another entry": lambda rows: _last(rows, "user_message").update(parentId="entry_other"),
    "a step behind another entry": lambda rows: _last(rows, "assistant_message_started").update(parentId="entry_other"),
    "a delta out of order": lambda rows: _last(rows, "assistant_text_delta").update(sequence=77),
    "a block that lacks a delta": lambda rows: _last(rows, "assistant_text_completed").update(deltaCount=77),
    "a second root": lambda rows: rows.append([{**rows[0][0], "id": "record_other"}]),
    "a child's, of an unknown type": lambda rows: rows.append(
        [{**rows[3][0], "conversationId": "conv_child", "id": "record_other", "type": "whisper"}]
    ),
    "results of other tools": lambda rows: _last(rows, "tool_results_committed").update(outcomeIds=[]),
}


@pytest.mark.parametrize("doubt", DOUBTS)
def test_a_record_that_flue_would_not_write_is_left_to_flue(doubt: str) -> None:
    batches = [json.loads(batch) for batch in recording("chat").batches]
    DOUBTS[doubt](batches)
    conversation = Conversation("agents/Chat/c", recording("chat").incarnation)
    with pytest.raises(Unreadable):
        conversation.append([written(batch).decode() for batch in batches])


@pytest.mark.parametrize("value", ["123456789012345678901", '"\\ud800"', '"\\u00e9"', "NaN", " 1"])
def test_a_value_that_would_be_written_anew_is_left_to_flue(value: str) -> None:
    told = recording("chat")
    conversation = Conversation("agents/Chat/c", told.incarnation)
    with pytest.raises(Unreadable):
        conversation.append([told.batches[0].replace('"v":1', f'"v":1,"more":{value}', 1)])


def test_a_conversation_without_a_batch_has_no_history() -> None:
    conversation = Conversation("agents/Chat/c", recording("chat").incarnation)
    with pytest.raises(Unreadable):
        conversation.history()
    assert conversation.page(0).batch == Batch(0, 0, b"", True, False)
