"""base64url without padding, as in tokens and cursors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol import base64url


@pytest.mark.parametrize(
    ("data", "text"), [(b"", ""), (b"\x00", "AA"), (b"\xfb\xff", "-_8"), (b"abc", "YWJj"), (b"abcd", "YWJjZA")]
)
def test_bytes_are_written_without_padding(data: bytes, text: str) -> None:
    assert base64url.encode(data) == text
    assert base64url.decode(text) == data


@given(st.binary())
def test_what_was_written_is_read(data: bytes) -> None:
    assert base64url.decode(base64url.encode(data)) == data


@pytest.mark.parametrize("text", ["A", "é", "AAAAA"])
def test_what_cannot_have_been_written_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"ASCII|base64|padding"):
        base64url.decode(text)
