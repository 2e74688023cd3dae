"""What a URL's path names, and which paths may be a stream's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.errors import InvalidRequest
from gateway.protocol.target import (
    SHORT,
    Part,
    Target,
    check_path,
    control_of,
    is_run,
    shown,
    tenant_of,
    within,
    without,
)


@pytest.mark.parametrize(
    "path",
    ["a", "a/b/c", "runs/" + "x" * 256, "x" * 1024, "é" * 1024, "run s/é🙂", "...", ".a", "a//b", "__ds2", "%2e%2e%2e"],
)
def test_a_path_may_be_almost_anything(path: str) -> None:
    assert check_path(path) == path
    assert Target.of("/v1/stream/" + path).stored("t") == within("t", path)


@pytest.mark.parametrize(
    "path", ["x" * 1025, "🙂" * 513, "runs/" + "x" * 257, "a\x00", "a\n", "a\r\nb", "\x1f", "a\x7f", "a\x85", "a\ufffd"]
)
def test_a_path_is_not_long_and_holds_no_control_characters(path: str) -> None:
    with pytest.raises(InvalidRequest):
        check_path(path)
    with pytest.raises(InvalidRequest):
        Target.of("/v1/stream/" + path).stored("")


@pytest.mark.parametrize(
    "path", [".", "..", "runs/.", "runs/..", "a/../b", "./a", "a/.", "runs/%2e", "runs/.%2E", "a/%2e%2e/b"]
)
def test_a_segment_that_clients_leave_out_is_refused(path: str) -> None:
    with pytest.raises(InvalidRequest):
        check_path(path)


@pytest.mark.parametrize("part", Part)
def test_what_lies_below_a_run_may_be_where_the_run_may_be(part: Part) -> None:
    longest = Target.of("/runs/" + "x" * 256 + part.value)
    assert longest.stored("") == "runs/" + "x" * 256 + part.value
    assert longest.stored_run("") == "runs/" + "x" * 256
    for run in ("x" * 257, ".", "a\x00"):
        target = Target.of(f"/runs/{run}{part.value}")
        assert target.part is part
        for stored in (target.stored, target.stored_run):
            with pytest.raises(InvalidRequest):
                stored("")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/stream/a/b", Target("", "a/b")),
        ("/v1/stream/runs/7", Target("", "runs/7", "runs/7")),
        ("/runs/7", Target("", "runs/7", "runs/7")),
        ("/runs/a/b", Target("", "runs/a/b")),
        ("/runs/7/control", Target("", "runs/7/control", "runs/7", Part.CONTROL)),
        ("/v1/stream/runs/7/heartbeat", Target("", "runs/7/heartbeat", "runs/7", Part.HEARTBEAT)),
        ("/runs/control", Target("", "runs/control", "runs/control")),
        ("/runs//control", Target("", "runs//control")),
        ("/runs/a/b/cancel", Target("", "runs/a/b/cancel")),
        ("/v1/stream/a/token", Target("", "a/token")),
        ("/v1/stream/runs/", Target("", "runs/")),
        ("/v1/stream/__ds", Target("", reserved=True)),
        ("/v1/stream/__ds/x", Target("", reserved=True)),
        ("/v1/stream/__dsx", Target("", "__dsx")),
        ("/v1/stream/", Target("")),
        ("/v1/stream", Target("")),
        ("/runs/", Target("")),
        ("/runs", Target("")),
        ("/", Target("")),
        ("/v2/stream/a", Target("")),
        ("/health", Target("")),
    ],
)
def test_two_routes_lead_to_one_namespace(path: str, expected: Target) -> None:
    found = Target.of(path)
    named = (expected.stream, expected.run, expected.part, expected.reserved)
    assert (found.path, found.stream, found.run, found.part, found.reserved) == (path, *named)


@given(st.sampled_from(["", "acme"]), st.text(st.sampled_from("runs/ab\u00e9"), min_size=1))
def test_a_run_is_one_by_its_url_as_by_its_place_in_the_log(tenant: str, path: str) -> None:
    for url in ("/v1/stream/", "/v1/stream/runs/"):
        target = Target.of(url + path)
        assert target.stream is not None
        assert target.is_run == is_run(target.stored(tenant))


def test_only_short_paths_are_remembered() -> None:
    assert Target.of("/runs/a") is Target.of("/runs/a")
    long = "/v1/stream/" + "a" * SHORT
    assert Target.of(long) is not Target.of(long)


def test_below_a_run_a_credential_has_to_reach_the_run() -> None:
    assert Target.of("/v1/stream/a/b").about == "a/b"
    assert Target.of("/runs/7").about == Target.of("/runs/7/control").about == "runs/7"
    assert Target.of("/health").about is None


def test_a_post_appends_to_streams_runs_and_their_controls() -> None:
    appended = ("/v1/stream/a", "/runs/7", "/runs/7" + Part.CONTROL.value)
    assert all(Target.of(url).appended_to for url in appended)
    requests = ("/runs/7/cancel", "/runs/7/heartbeat", "/runs/7/token", "/health")
    assert not any(Target.of(url).appended_to for url in requests)


def test_the_control_of_a_run_lies_below_it() -> None:
    assert Target.of("/" + control_of("runs/7")).part is Part.CONTROL


def test_a_stored_name_is_told_apart_from_its_tenant() -> None:
    stored = within("acme", "runs/7")
    assert (tenant_of(stored), without(stored), shown(stored)) == ("acme", "runs/7", "acme:runs/7")
    assert (tenant_of("runs/7"), without("runs/7"), within("", "runs/7")) == ("", "runs/7", "runs/7")
