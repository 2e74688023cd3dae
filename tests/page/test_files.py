"""The files of the page: they work offline and under any path prefix, and put text in only as text."""

from __future__ import annotations

import pytest

from gateway.page import files


@pytest.mark.parametrize("name", files())
def test_a_file_names_no_host_and_no_path_from_the_root(name: str) -> None:
    text = files()[name].decode()
    assert 'href="/' not in text
    assert 'src="/' not in text
    assert "innerHTML" not in text
    assert text.replace("https://html.spec.whatwg.org/", "").count("://") == 0


def test_the_page_is_small() -> None:
    assert sum(len(content.splitlines()) for content in files().values()) <= 1_500
