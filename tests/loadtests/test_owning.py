"""The judge of conversations finds what it is for: each case is one that some broken gateway would make."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from loadtests.survival.ledger import INVENTED, LOST, OWNERS, REPEATED
from loadtests.survival.owning import Account, Epoch, Write, judge_owners

A, B = 1, 2
OWNED = [Epoch(1, A, 0.0), Epoch(2, B, 10.0), Epoch(5, A, 20.0)]


def writes(*those: tuple[int, float]) -> list[Write]:
    return [Write(pid, at, f"{at}") for pid, at in those]


@pytest.mark.parametrize(
    "right",
    [
        [],
        [(A, 1), (A, 2), (B, 11), (A, 21)],
        [(A, 12), (B, 13)],  # written before it was taken, and late through nobody's fault: nothing of B's before it
        [(B, 11), (A, 21), (A, 30)],
    ],
)
def test_owners_one_after_the_other_are_right(right: Sequence[tuple[int, float]]) -> None:
    assert not judge_owners("t", writes(*right), OWNED).counts


@pytest.mark.parametrize(
    "wrong",
    [
        [(B, 9)],  # before it owns
        [(A, 1), (B, 11), (A, 12)],  # late, behind the next owner's
        [(A, 1), (B, 11), (A, 21), (B, 22)],
        [(3, 1)],  # never owned
    ],
)
def test_a_write_to_who_is_not_the_owner_is_found(wrong: Sequence[tuple[int, float]]) -> None:
    assert judge_owners("t", writes(*wrong), OWNED).counts[OWNERS] == 1


def test_messages_are_compared_with_what_was_said_of_them() -> None:
    account = Account("t", taken=["a", "b", "c"], refused=["d", "e"])
    found = account.judge([Write(A, n, text) for n, text in enumerate(["a", "b", "b", "d", None, "of nobody"])])
    assert found.counts == {LOST: 1, REPEATED: 1, INVENTED: 1}
