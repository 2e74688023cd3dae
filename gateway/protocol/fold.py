"""Folded reading: consecutive events that differ in nothing but a text are read as one, whose text is theirs joined.

`fold=type,id:text` folds events whose `type` and `id` are equal: the first one's other fields stay as they are written,
and its `text` is that of all of them, one after the other. Offsets stay as they are, since a fold ends where its page
does: a reader that goes on from there misses nothing, and is given nothing twice.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

import orjson

from gateway.protocol import json_body
from gateway.protocol.batch import LINE, Batch, Encoding, measured
from gateway.protocol.errors import InvalidRequest
from gateway.protocol.offset import events_between

MOST_NAMES: Final = 8  # on each side
SHELL: Final = 4 << 10  # bytes of an event up to which its likes are taken without parsing them
TURN: Final = 500  # events that are looked at in one turn of the loop
_NAMES: Final = re.compile(r"[^,:]{1,256}(?:,[^,:]{1,256})*")
_TEXT: Final = rb'[ \t]*:[ \t]*"((?:[^"\\]|\\.)*)"'
_SHORT_TEXT: Final = re.compile(rb'(?:[^"\\]|\\[^u])*')  # the inside of a text without escapes by number
_MARK: Final = b"run-gateway-fold-mark"
_EXACT: Final = 2.0**63  # a number from here on is read as one that is near it


@dataclass(frozen=True, slots=True)
class Fold:
    """Events are folded whose fields of these names are the `same`; those named by `joined` are joined, as texts."""

    same: tuple[str, ...]
    joined: tuple[str, ...]


def parse_fold(text: str) -> Fold:
    """`a,b:text`. Raises InvalidRequest."""
    same, colon, joined = text.partition(":")
    if not colon or not _NAMES.fullmatch(same) or not _NAMES.fullmatch(joined):
        raise InvalidRequest("fold must be names of fields, a colon, and names of texts: type,id:text.")
    fold = Fold(tuple(same.split(",")), tuple(joined.split(",")))
    if max(len(fold.same), len(fold.joined)) > MOST_NAMES or set(fold.same) & set(fold.joined):
        raise InvalidRequest(f"fold may have {MOST_NAMES} names on each side, and none on both.")
    return fold


def fold_in_pieces(fold: Fold, encoding: Encoding, batch: Batch) -> Generator[None, None, Batch]:
    """A batch of which events are folded, from the same offset to the same. Gives way now and then.

    Raises InvalidRequest for events that are no JSON. All readers of a batch share the result.
    """
    if encoding is not Encoding.JSON:
        raise InvalidRequest("fold is for JSON streams.")
    if batch.folded is not None and batch.folded[0] == fold:  # for all who come late
        return batch.folded[1]
    events = _events(batch)
    if events is None or len(events) < 2:
        return batch
    folding = _Folding(fold, batch.end - len(events))
    for done, event in enumerate(events, 1):
        folding.take(event)
        if done % TURN == 0:
            yield
    parts, cuts = yield from folding.end()
    lengths, ends = [len(part) for part in parts], [group.end for group in folding.groups]
    folded = replace(batch, body=b",".join(parts), lengths=lengths, ends=ends, cuts=cuts, folded=None)
    batch.folded = (fold, folded)
    return folded


def _events(batch: Batch) -> Sequence[bytes] | None:
    """The events of a batch, one by one; None if the bytes do not tell."""
    lengths = batch.lengths or measured(Encoding.JSON, batch)
    if lengths is None or len(lengths) != events_between(batch.start, batch.end):
        return None
    events, at = [], 0
    for length in lengths:
        events.append(batch.body[at : at + length])
        at += length + 1
    return events


class _Group:
    """Events that are one: the `first` of them, and the texts of all as JSON writes them. `end`: the position after the
    last.

    `shell`: what the first one is before and behind its only text. An event that has the same shell differs in its text
    alone, and need not be parsed; so most of a chat is not.
    """

    __slots__ = ("_shell", "count", "end", "first", "key", "texts")

    def __init__(self, first: bytes, key: bytes | None, texts: dict[str, bytes]) -> None:
        self.first = first
        self.key = key
        self.texts = {name: [text] for name, text in texts.items()}
        self.count = 1
        self.end = 0
        self._shell: tuple[bytes, bytes] | None = None

    def fits(self, event: bytes) -> bool:
        """Takes an event, if it has the same shell."""
        if self._shell is None:
            return False
        before, behind = self._shell
        if not event.startswith(before) or not event.endswith(behind):
            return False
        text = event[len(before) : len(event) - len(behind)]
        if len(before) + len(behind) > len(event) or not _SHORT_TEXT.fullmatch(text):
            return False
        for texts in self.texts.values():
            texts.append(text)
        self.count += 1
        return True

    def add(self, texts: dict[str, bytes]) -> None:
        for name, text in texts.items():
            self.texts[name].append(text)
        self.count += 1
        if self.count == 2 and len(texts) == 1:
            self._shell = _shell(self.first, *texts)

    def to_bytes(self) -> bytes:
        """The first event, with the texts of all. What it has besides stays as it is written."""
        if self.count == 1:
            return self.first
        joined = {name: b"".join(texts) for name, texts in self.texts.items()}
        if self._shell is not None:
            (text,) = joined.values()
            return self._shell[0] + text + self._shell[1]
        members = json_body.at_once(json_body.members_in_pieces(self.first, len(self.first)))
        members |= {name: b'"%b"' % text for name, text in joined.items()}
        return b"{%b}" % b",".join(b"%b:%b" % (orjson.dumps(name), text) for name, text in members.items())


def _shell(event: bytes, name: str) -> tuple[bytes, bytes] | None:
    """The event before and behind its text of this name; None: it is large, or where that stands is not plain."""
    if len(event) > SHELL:
        return None
    value = orjson.loads(event) | {name: _MARK.decode()}
    for place in islice(re.finditer(re.escape(orjson.dumps(name)) + _TEXT, event), 2):
        before, behind = event[: place.start(1)], event[place.end(1) :]
        if orjson.loads(before + _MARK + behind) == value:
            return before, behind
    return None


class _Folding:
    """The groups of a batch that begins after `position`."""

    def __init__(self, fold: Fold, position: int) -> None:
        self._fold = fold
        self._position = position
        self.groups: list[_Group] = []

    def take(self, event: bytes) -> None:
        """Takes the next event: into the last group, if it is as the others there."""
        self._position += 1
        last = self.groups[-1] if self.groups else None
        if last is None or not last.fits(event):
            key, texts = self._look(event)
            if last is None or key is None or key != last.key:
                last = _Group(event, key, texts)
                self.groups.append(last)
            else:
                last.add(texts)
        last.end = self._position

    def _look(self, event: bytes) -> tuple[bytes | None, dict[str, bytes]]:
        """Finds what has to be equal, and the texts as JSON writes them; None: the event is folded with no other."""
        try:
            value = orjson.loads(event)
        except orjson.JSONDecodeError:  # half of a surrogate pair, or nested too deep
            return None, {}
        if not isinstance(value, dict):
            return None, {}
        texts = {name: value[name] for name in self._fold.joined if name in value}
        same = [[value[name]] if name in value else [] for name in self._fold.same]
        if not texts or not all(isinstance(text, str) for text in texts.values()) or _inexact(same):
            return None, {}
        return orjson.dumps([same, list(texts)]), {name: orjson.dumps(text)[1:-1] for name, text in texts.items()}

    def end(self) -> Generator[None, None, tuple[list[bytes], list[tuple[int, int]]]]:
        """The folded events, and where a batch of them may be cut (see `batch.cuts`)."""
        parts: list[bytes] = []
        cuts: list[tuple[int, int]] = []
        begun = size = after = 0  # where the line begins, and the last event ends; the position after that
        for done, group in enumerate(self.groups, 1):
            event = group.to_bytes()
            start = size + 1 if parts else 0
            if parts and start + len(event) - begun > LINE:
                cuts.append((after, size))
                begun = start
            parts.append(event)
            size, after = start + len(event), group.end
            if done % TURN == 0:
                yield
        return parts, [*cuts, (after, size)]


def _inexact(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_inexact, value))
    if isinstance(value, dict):
        return any(map(_inexact, value.values()))
    return isinstance(value, float) and abs(value) >= _EXACT
