"""The ids of a Flue app's conversations by example; tests/flue2/test_ids.py asks the app itself."""

from __future__ import annotations

import pytest

from gateway.owner.flue.ids import id_of


@pytest.mark.parametrize(
    ("path", "id"),
    [
        (b"/agents/chat/c1", "c1"),
        (b"/agents/chat/c1/abort", "c1"),
        (b"/agents/chat/c1/attachments/a%2F1", "c1"),
        (b"/agents/%63hat/c1", "c1"),
        (b"/agents/chat/a%2Fb", "a/b"),
        (b"/agents/chat/a%2fb%41", "a/bA"),
        (b"/agents/chat/a%252Fb", "a%2Fb"),
        (b"/agents/chat/%E4%BD%A0", "你"),
        (b"/agents/chat/\xe9", "é"),
        (b"/agents/chat/a+b%20c", "a+b c"),
        (b"/agents/chat/%FFa%41%ZZ", "%FFaA%ZZ"),
        (b"/agents/chat/%FF%25", "%FF%2525"),
        (b"/agents/chat/%C3%28", "%C3%28"),
        (b"/agents/chat/%ED%A0%80", "%ED%A0%80"),
        (b"/agents/x/../chat/c1", "c1"),
        (b"/agents/chat/./%2E/c1", "c1"),
        (b"/agents\\chat\\c1", "c1"),
        (b"/agents/chat/a%3Fb%23c", "a?b#c"),
        (b"/agents/chat/a#b", "a"),
        (b"/agents/chat/%5C", "\\"),
    ],
)
def test_a_path_is_of_the_conversation_that_flue_finds(path: bytes, id: str) -> None:
    assert id_of("/agents/chat", path) == id


@pytest.mark.parametrize(
    "path",
    [
        b"/agents/chat",
        b"/agents/chat/",
        b"/agents/chat//c1",
        b"/agents/chats/c1",
        b"/agents/chat/..",
        b"/agents/chat/x/%2e%2E/",
        b"/agents/chat/a%00b",
        b"/agents%2Fchat/c1",
        b"/",
        b"/agents/chat/../../../../c1",
    ],
)
def test_another_path_is_of_none(path: bytes) -> None:
    assert id_of("/agents/chat", path) is None
