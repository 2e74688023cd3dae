"""What a conversation's clients were told, what its applications got, and who owned it: where these differ. Pure.

Times are seconds of one steady clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from loadtests.survival.ledger import INVENTED, LOST, OWNERS, REPEATED, Findings

TOLERANCE = 0.01  # seconds by which two readings of a clock may differ


@dataclass(frozen=True)
class Epoch:
    """`pid`: of the application that owns from a moment before `since` was committed; 0: of one that nobody knows."""

    number: int
    pid: int
    since: float


@dataclass(frozen=True)
class Write:
    """It has reached an application: its head, or (`text`) all of it."""

    pid: int
    at: float
    text: str | None


@dataclass
class Account:
    """Messages by what their senders were told: taken, or that no application has got them. Of others nobody knows."""

    talk: str
    taken: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def judge(self, writes: Sequence[Write]) -> Findings:
        findings = Findings()
        got = Counter(write.text for write in writes if write.text is not None)
        lost = [text for text in self.taken if text not in got]
        findings.add(LOST, f"{self.talk}: taken, and at no application: {lost[:5]}", len(lost))
        twice = [text for text, count in got.items() if count > 1]
        findings.add(REPEATED, f"{self.talk}: more than once at applications: {twice[:5]}", len(twice))
        sent = [text for text in self.refused if text in got]
        findings.add(INVENTED, f"{self.talk}: refused as sent to nobody, and sent: {sent[:5]}", len(sent))
        return findings


def judge_owners(talk: str, writes: Sequence[Write], owners: Sequence[Epoch]) -> Findings:
    """Writes that reached an application when it was not the owner, or when a later one had got some already.

    `writes` in the order of time, `owners` in that of their numbers.
    """
    findings = Findings()
    at = 0  # of `owners`: epochs never go back
    for write in writes:
        found = next((n for n in range(at, len(owners)) if _may(owners[n], write)), None)
        if found is None:
            before = owners[at] if owners else None
            note = (
                f"{talk}: process {write.pid} got a write at {write.at:.3f} ({write.text}), and owned nothing: {before}"
            )
            findings.add(OWNERS, note)
        else:
            at = found
    return findings


def _may(epoch: Epoch, write: Write) -> bool:
    return epoch.pid == write.pid and epoch.since <= write.at + TOLERANCE
