"""How far a credential reaches, and what stands for a tenant."""

from __future__ import annotations

import pytest

from gateway.auth.principal import SCOPES, Principal, matches
from gateway.protocol.errors import InvalidRequest
from gateway.protocol.target import SEPARATOR, check_path, shown, tenant_of, within, without


@pytest.mark.parametrize(
    ("pattern", "run", "fits"),
    [
        ("a", "a", True),
        ("a", "ab", False),
        ("*", "", True),
        ("a*", "a", True),
        ("a*", "ba", False),
        ("*a", "ba", True),
        ("*a", "ab", False),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("a*b*c", "a/b/c", True),
        ("a*b*c", "acb", False),
        ("a.c", "abc", False),
        ("a**c", "abc", True),
        ("user-7-*", "user-77-1", False),
    ],
)
def test_a_star_is_any_characters_and_everything_else_is_literal(pattern: str, run: str, fits: bool) -> None:
    assert matches(pattern, run) is fits


def test_patterns_are_of_runs_alone() -> None:
    mine = Principal("p", SCOPES, runs=("mine-*", "ours"))
    assert [mine.reaches(path) for path in ("runs/mine-1", "runs/ours", "runs/ours-2", "mine-1", "orders")] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_one_stream_is_that_one_whatever_characters_it_has() -> None:
    one = Principal("p", SCOPES, stream="runs/a*")
    assert one.reaches("runs/a*") and not one.reaches("runs/ab")


def test_no_client_can_name_what_is_another_tenants() -> None:
    stored = within("acme", "runs/1")
    assert (tenant_of(stored), without(stored), shown(stored)) == ("acme", "runs/1", "acme:runs/1")
    assert (tenant_of("runs/1"), without("runs/1"), within("", "runs/1")) == ("", "runs/1", "runs/1")
    with pytest.raises(InvalidRequest):
        check_path(f"acme{SEPARATOR}runs/1")
