"""Whose webhooks are attempted: a share for each tenant and each host, whatever the others have."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.subscriptions.shares import Shares, chosen


def test_a_tenant_alone_takes_a_third() -> None:
    shares = Shares(most=256, most_of_host=1000)
    assert sum(shares.take("mallory", "hangs.example") for _ in range(1000)) == 85
    assert shares.free == 171


def test_a_host_takes_no_more_than_its_share_of_its_tenants() -> None:
    shares = Shares()
    assert sum(shares.take("acme", "hangs.example") for _ in range(100)) == 16
    assert shares.take("acme", "works.example")
    assert shares.take("globex", "hangs.example"), "which another tenant calls too"


@given(st.integers(min_value=1, max_value=100))
def test_there_is_room_for_one_more_tenant(many: int) -> None:
    shares = Shares(most_of_host=1000)
    for _ in range(256):
        for tenant in range(many):
            shares.take(str(tenant), "hangs.example")
    assert shares.take("honest", "works.example")


def test_what_is_given_back_is_forgotten() -> None:
    shares = Shares()
    for tenant in ("a", "b"):
        assert shares.take(tenant, "x")
        shares.give_back(tenant, "x")
    assert shares.free == 256
    assert not shares._tenants and not shares._hosts


def test_those_that_are_chosen_have_taken_their_share() -> None:
    shares = Shares(most=6, most_of_host=1)
    due = [(1, "a", "x"), (2, "a", "x"), (3, "a", "y"), (4, "b", "x"), (5, "a", "z")]
    assert chosen(shares, due) == [(1, "a", "x"), (3, "a", "y"), (4, "b", "x")]
    assert shares.free == 3
