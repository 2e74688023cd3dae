"""Whether a stream had to be there, or could not be, at a moment. Pure.

A stream may go because somebody deletes it, because nothing gave it a sign of life for its TTL, or because it has been
closed for as long as closed streams are kept. A sign of life counts somewhere between the beginning and the end of its
call, so each question has two answers, and only what neither excuses is a violation.
"""

from __future__ import annotations

import bisect
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator

from loadtests.collisions.findings import RISEN
from loadtests.collisions.history import (
    ABSENT,
    APPEND,
    APPENDED,
    CREATED,
    DELETE,
    DUPLICATE,
    FOUND,
    KEEP,
    LEASE,
    READ,
    UNKNOWN,
    Call,
    is_run,
    ttl_of,
)  # fmt: skip
from loadtests.survival.ledger import LOST, Findings

_UNHEARD = 3.0  # seconds without a look, after which it is a break
_SLACK = 0.01  # seconds: what is written down of a time is a little later, or earlier, than it was


class Presence:
    """What is known about the streams of one path, one after the other."""

    def __init__(self, path: str, calls: Iterable[Call], breaks: Iterable[tuple[float, float]] = ()) -> None:
        self.path = path
        self._ttl = ttl_of(path)
        self._breaks = list(breaks)
        self._calls = sorted(calls, key=lambda call: call.began)
        self._deletes = [call for call in self._calls if call.what == DELETE and call.happened]
        closes = (call for call in self._calls if call.what == APPEND and call.closes and call.verdict != ABSENT)
        self._closes = sorted(closes, key=lambda call: call.ended)
        self._opens = sorted((call for call in self._calls if _open(call)), key=lambda call: call.ended)
        self._seen = sorted((call for call in self._calls if _there(call)), key=lambda call: call.ended)
        signs = (call for call in self._calls if call.verdict in (APPENDED, CREATED))
        self._signs = sorted(signs, key=lambda call: call.ended)
        self._lives = [0.0]  # the latest of so many of them
        self._gaps: list[
            float
        ] = []  # before which it may have gone, since there was no sign of life for long, or did go
        for call in self._signs:
            if call.verdict == CREATED or call.ended - self._lives[-1] > self._ttl - _SLACK:
                self._gaps.append(call.ended)
            self._lives.append(max(self._lives[-1], call.life))

    def may_go(self, since: float, until: float) -> bool:
        """Whether a stream that was there at some time after `since` may be gone before `until`, or be another one."""
        if any(call.ended > since and call.began < until for call in self._deletes):
            return True
        gap = bisect.bisect_right(self._gaps, since)
        if gap < len(self._gaps) and self._gaps[gap] <= until:
            return True
        at = bisect.bisect_right(self._signs, until, key=lambda call: call.ended)
        life = self._lives[at]
        closed = min(self._closed(until), life + LEASE if is_run(self.path) else math.inf)
        return until - life > self._ttl - _SLACK or until - closed > KEEP - _SLACK

    def _closed(self, until: float) -> float:
        """When the stream that was there last may have been closed at the earliest."""
        at = bisect.bisect_right(self._opens, until, key=lambda call: call.ended)
        since = self._opens[at - 1].began if at else 0.0
        first = bisect.bisect_right(self._closes, since, key=lambda call: call.ended)
        return min((call.life for call in self._closes[first:]), default=math.inf)

    def judge(self) -> Findings:
        findings = Findings()
        for call in self._calls:
            if call.verdict == ABSENT:
                self._judge_absence(findings, call)
        if self._ttl < math.inf:
            self._judge_rising(findings)
        return findings

    def _judge_absence(self, findings: Findings, absent: Call) -> None:
        at = bisect.bisect_right(self._seen, absent.began, key=lambda call: call.ended)
        if at:
            last = self._seen[at - 1]
            if not self.may_go(last.began, absent.ended):
                findings.add(
                    LOST,
                    f"{self.path}: was there, and {_say(absent)} found nothing {absent.ended - last.ended:.2f} s later",
                )
        for call in self._signs:
            if call.held is not None and call.held[0] <= absent.began and absent.ended <= call.held[1]:
                findings.add(LOST, f"{self.path}: {_say(absent)} found nothing while a transaction had written to it")

    def _judge_rising(self, findings: Findings) -> None:
        """Nobody may be given a stream whose end has come, and who was told that it is gone is not given it again."""
        lives = sorted((call for call in self._calls if _may_slide(call)), key=lambda call: call.began)
        latest = [0.0]  # when the last of so many of them ended
        for call in lives:
            latest.append(max(latest[-1], call.ended))
        for call in filter(_there, self._calls):
            before = bisect.bisect_left(lives, call.began, key=lambda life: life.began)
            beside = bisect.bisect_left(lives, call.ended, key=lambda life: life.began)
            end = latest[before] + self._ttl
            if (
                call.began > end + _SLACK
                and not self._unheard(end, call)
                and all(life is call for life in lives[before:beside])
            ):
                silent = call.began - latest[before]
                findings.add(RISEN, f"{self.path}: {_say(call)} found it {silent:.2f} s after the last sign of life")
        absences = sorted(
            (call for call in self._calls if call.verdict == ABSENT and call.what == READ), key=lambda c: c.ended
        )
        for known in _by_id(self._calls):
            first = min(call.ended for call in known)
            for call in known:
                at = bisect.bisect_right(absences, call.began, key=lambda absent: absent.ended)
                if at and absences[at - 1].began > first and not self._unheard(absences[at - 1].ended, call):
                    findings.add(RISEN, f"{self.path}: stream {call.id} is read again after it was told to be gone")
                    break

    def _unheard(self, end: float, call: Call) -> bool:
        """Whether nobody looked when the end came, so that the stream had its TTL again from the next look on."""
        return any(
            left < end + _SLACK and left + _UNHEARD < call.ended + _SLACK and call.began < since + self._ttl + _SLACK
            for left, since in self._breaks
        )


def _there(call: Call) -> bool:
    return (call.what == READ and call.verdict == FOUND) or (
        call.what == APPEND and call.verdict in (APPENDED, DUPLICATE)
    )


def _open(call: Call) -> bool:
    """Whether it says that the stream is open."""
    return (call.what == READ and call.verdict == FOUND and not call.closed) or (
        call.what == APPEND and call.verdict == APPENDED and not call.closes
    )


def _may_slide(call: Call) -> bool:
    """Whether it moves an end, maybe, or keeps it from coming, as a transaction does that is rolled back."""
    return call.touches and (call.lasting or call.verdict in (APPENDED, CREATED, DUPLICATE, FOUND, UNKNOWN))


def _by_id(calls: Iterable[Call]) -> Iterator[list[Call]]:
    found: defaultdict[int, list[Call]] = defaultdict(list)
    for call in calls:
        if call.what == READ and call.id is not None and call.verdict == FOUND:
            found[call.id].append(call)
    yield from found.values()


def _say(call: Call) -> str:
    return {READ: "a reader", DELETE: "a DELETE"}.get(call.what, "an append" if call.what == APPEND else call.what)
