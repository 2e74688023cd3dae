from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.subscriptions.glob import Glob
from tests.subscriptions.tools import Streams

CASES = [
    ("events/*", "events/a", True),
    ("events/*", "events", False),
    ("events/*", "events/a/b", False),
    ("events/**", "events", True),
    ("events/**", "events/a/b/c", True),
    ("**", "anything/at/all", True),
    ("**/end", "end", True),
    ("**/end", "a/b/end", True),
    ("**/end", "a/b/end/c", False),
    ("a/**/b/**/c", "a/x/b/y/z/c", True),
    ("a/**/b/**/c", "a/x/c", False),
    ("a/**/**/b", "a/b", True),
    ("run*", "runs", False),
    ("run*", "run*", True),
    ("a/%2A/c", "a/*/c", True),
    ("a/%2a/c", "a/b/c", False),
    ("a.c/*", "abc/x", False),
    ("a+(b)/[c]$", "a+(b)/[c]$", True),
    ("/events/*/", "events/a", True),
    ("events//*", "events//a/", True),
    ("Events/*", "events/a", False),
    ("läuft/*", "läuft/ß", True),
    ("a\\d/*", "a\\d/x", True),
    ("a\\d/*", "a5/x", False),
]

segments = st.sampled_from(["a", "b", "*", "**", "a*", "%2A", ".", "é", "+", "(", "\\", "^", "$", "{2}", "?", "|", ""])
patterns = st.lists(segments, min_size=1, max_size=6).map("/".join)
paths = st.lists(st.sampled_from(["a", "b", "*", "a*", ".", "é", "aa", "+", "\\", ""]), max_size=6).map("/".join)


@pytest.mark.parametrize(("pattern", "path", "expected"), CASES)
def test_a_pattern_takes_paths_as_the_specification_says(pattern: str, path: str, expected: bool) -> None:
    assert Glob(pattern).matches(path) is expected


def as_the_reference_does(pattern: list[str], path: list[str]) -> bool:
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(as_the_reference_does(pattern[1:], path[i:]) for i in range(len(path) + 1))
    if not path:
        return False
    literal = pattern[0].replace("%2A", "*").replace("%2a", "*")
    return (pattern[0] == "*" or literal == path[0]) and as_the_reference_does(pattern[1:], path[1:])


@given(patterns, paths)
def test_it_agrees_with_the_plain_recursion(pattern: str, path: str) -> None:
    expected = as_the_reference_does([p for p in pattern.split("/") if p], [p for p in path.split("/") if p])
    assert Glob(pattern).matches(path) is expected


@given(patterns, paths)
def test_a_matching_path_begins_with_the_head(pattern: str, path: str) -> None:
    glob = Glob(pattern)
    assert not glob.matches(path) or path.lstrip("/").startswith(glob.head)


async def test_postgres_judges_as_python_does(streams: Streams) -> None:
    pairs = [(pattern, path) for pattern, _, _ in CASES for _, path, _ in CASES]
    rows = await streams.row(
        "SELECT array_agg(('/' || u.path) ~ u.regex ORDER BY u.i) AS taken"
        " FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS u(regex, path, i)",
        [Glob(pattern).regex for pattern, _ in pairs],
        [path for _, path in pairs],
    )
    assert rows["taken"] == [Glob(pattern).matches(path) for pattern, path in pairs]


def test_a_hostile_pattern_takes_no_time() -> None:
    glob = Glob("/".join(["**", "a"] * 100) + "/b")
    started = time.process_time()
    assert not glob.matches("/".join(["a"] * 500))
    assert time.process_time() - started < 1
