"""Which requests belong to one conversation."""

from __future__ import annotations

import pytest

from gateway.owner.errors import AmbiguousPath, BadOwned
from gateway.owner.rows import Key, Row, Table, rows_of

TABLE = Table(rows_of("/agents/chat/{id}, /{id}/thread"))


@pytest.mark.parametrize(
    ("path", "id"),
    [
        (b"/agents/chat/c1", b"c1"),
        (b"/agents/chat/c1/abort", b"c1"),
        (b"/agents/chat/c1/attachments/x%2Fy", b"c1"),
        (b"/agents/chat/a%2Fb", b"a/b"),
        (b"/agents/chat/%C3%A9%00%ff", "é".encode() + b"\0\xff"),
        (b"/Agents/CHAT/C1", b"C1"),
        (b"//agents/./x/../chat//c1", b"c1"),
        (b"/agents\\chat\\c1", b"c1"),
        (b"/agents/%63hat/c1/", b"c1"),
        (b"/agents/chat/c1/..", b"c1"),
        (b"/./agents/chat/c1", b"c1"),
        (b"/x/..;v=1/agents/chat/c1", b"c1"),
        (b"//host/agents/chat/c1", b"c1"),
        (b"/\\host:80/agents/chat/c1/abort", b"c1"),
        (b"//host/../agents/chat/c1", b"c1"),
        (b"/agents/chat/c1//../..", b"c1"),
        (b"/agents%2Fchat%2fc1", b"c1"),
        (b"/agents%5Cchat/c1/abort", b"c1"),
        (b"/agents/chat%2Fc1/abort", b"c1"),
        (b"%2Fagents%2Fx%2F..%2Fchat/c1", b"c1"),
        (b"/agents;v=1/chat;v=2/c1", b"c1"),
    ],
)
def test_every_spelling_of_a_path_names_its_conversation(path: bytes, id: bytes) -> None:
    assert TABLE.find(path) == Key.of(TABLE.rows[0], id)


@pytest.mark.parametrize(
    ("id", "other"),
    [
        (b"C1", b"c1"),  # a database may compare without case
        (b"c1;v=1", b"c1"),  # servlets leave parameters out
        (b"c1\0x", b"c1"),
        (b"%63%31", b"c1"),  # decoded twice
        (b"\xff\xfe", b"\xef\xbf\xbd"),  # no UTF-8
        ("e\u0301".encode(), "é".encode()),
    ],
)
def test_ids_that_an_app_may_confuse_have_one_key(id: bytes, other: bytes) -> None:
    row = TABLE.rows[0]
    assert Key.of(row, id).digest == Key.of(row, other).digest
    exact = Row("exact", "/x/{id}", find=lambda path: path)
    assert Key.of(exact, id).digest != Key.of(exact, other).digest


@pytest.mark.parametrize(
    "path",
    [
        *(b"/agents/chat/c1/../c2", b"/agents/chat/c1/%2E%2e/c2", b"/agents/chat/../chat/c1", b"/agents/chat/./c1"),
        *(b"/agents/chat/c1/..;v=1/c2", b"/agents/chat/c1/..%3Bv=1/c2", b"/agents/chat/c1\\..\\c2"),
        *(b"/c1/thread/../../agents/chat/c2", b"/agents/chat/c1/./../x", b"//c1/thread/thread"),
        b"/agents%2Fchat%2Fc1%2F..%2Fc2%2f.",
    ],
)
def test_a_path_of_two_conversations_is_refused(path: bytes) -> None:
    """By how an application resolves dots, or takes what follows two slashes for a host."""
    with pytest.raises(AmbiguousPath):
        TABLE.find(path)


@pytest.mark.parametrize("path", [b"/", b"/agents/chat", b"/agents/chat/", b"/agents/other/c1", b"/health", b"*"])
def test_a_path_of_no_row_is_none(path: bytes) -> None:
    assert TABLE.find(path) is None


def test_the_first_row_that_fits_takes() -> None:
    assert TABLE.find(b"/agents/chat/thread") == Key.of(TABLE.rows[0], b"thread")
    assert TABLE.find(b"/c1/thread/x") == Key.of(TABLE.rows[1], b"c1")


def test_keys_of_two_rows_and_of_two_tenants_differ() -> None:
    row = TABLE.rows[0]
    keys = [Key.of(row, b"x"), Key.of(TABLE.rows[1], b"x"), Key.of(row, b"x", "t"), Key.of(row, b"y")]
    assert len({key.digest for key in keys}) == 4


@pytest.mark.parametrize("text", ["agents/{id}", "/agents", "/{id}/{id}", "/a-{id}", "/a/{id}?x", "/a/{id},/a/{id}"])
def test_a_row_that_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(BadOwned):
        rows_of(text)


def test_a_row_may_say_how_it_is_asked_and_woken() -> None:
    row = Row("chat", "/chat/{id}", busy="/chat/{id}/busy", wake="/chat/{id}")
    assert row.busy == "/chat/{id}/busy"
    with pytest.raises(BadOwned):
        Row("chat", "/chat/{id}", busy="/busy")
