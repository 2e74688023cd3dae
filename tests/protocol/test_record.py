"""A run's record, against what Flue's own server answered."""

from __future__ import annotations

from datetime import UTC, datetime

from gateway.protocol.record import RunRecord, instant, to_json

STARTED = "2026-11-23T02:02:03.144Z"


def test_an_active_run_has_only_its_beginning() -> None:
    record = RunRecord("run_1", "active", STARTED, "ticker", b'{"n":3,"intervalMs":1000}')
    assert not record.ended
    assert to_json(record) == (
        b'{"runId":"run_1","workflowName":"ticker","status":"active","startedAt":"2026-11-23T02:02:03.144Z",'
        b'"input":{"n":3,"intervalMs":1000}}'
    )


def test_an_ended_run_has_all_fields_in_flues_order() -> None:
    record = RunRecord(
        "run_1",
        "completed",
        STARTED,
        "ticker",
        b'{"n":1}',
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "a=b",
        "2026-11-23T02:02:03.164Z",
        False,
        20,
        b'{"ok":true,"ticks":1,"pid":1495}',
    )
    assert record.ended
    assert to_json(record) == (
        b'{"runId":"run_1","workflowName":"ticker","status":"completed","startedAt":"2026-11-23T02:02:03.144Z",'
        b'"input":{"n":1},"traceCarrier":{"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",'
        b'"tracestate":"a=b"},"endedAt":"2026-11-23T02:02:03.164Z","isError":false,"durationMs":20,'
        b'"result":{"ok":true,"ticks":1,"pid":1495}}'
    )


def test_a_failed_run_has_an_error_and_no_result() -> None:
    error = b'{"name":"Error","message":"ticker was asked to fail"}'
    record = RunRecord("run_1", "errored", STARTED, is_error=True, duration_ms=310, error=error)
    assert to_json(record).endswith(b',"isError":true,"durationMs":310,"error":%b}' % error)


def test_what_is_the_gateways_own_comes_last() -> None:
    record = RunRecord("run_1", "active", STARTED, metadata=b'{"user":"u1"}', cancel_requested_at=STARTED, lease=30)
    assert to_json(record).endswith(
        b'"startedAt":"2026-11-23T02:02:03.144Z","metadata":{"user":"u1"},'
        b'"cancelRequestedAt":"2026-11-23T02:02:03.144Z","lease":30}'
    )


def test_json_that_a_client_wrote_keeps_its_digits_and_its_null() -> None:
    record = RunRecord("run_1", "completed", STARTED, input=b'{"b":1.10,"a":1e400}', result=b"null")
    assert b'"input":{"b":1.10,"a":1e400}' in to_json(record)
    assert to_json(record).endswith(b'"result":null}')


def test_times_are_written_as_javascript_does() -> None:
    assert instant(datetime(2026, 11, 23, 2, 2, 3, 144_999, UTC)) == STARTED
    assert instant(datetime(2026, 11, 23, tzinfo=UTC)) == "2026-11-23T00:00:00.000Z"
