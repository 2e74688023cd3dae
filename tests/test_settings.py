"""Settings: what the environment means, what is refused and in which words, and that the README tells the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from gateway.settings import BadSetting, Settings, load, variable
from gateway.settings.listing import misspelt, sections, table, unread_in
from gateway.settings.model import SECTIONS
from tests.manual import manual


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(variable(name), raising=False)


def test_without_an_environment_everything_has_its_default() -> None:
    settings = load()
    assert (settings.database_url, settings.host, settings.port) == (None, "127.0.0.1", 8080)
    assert settings.data_dir == Path(".run-gateway")
    assert (settings.long_poll_timeout, settings.sse_max_age, settings.heartbeat) == (20, 60, 8)
    assert (settings.max_body, settings.migrate) == (10 * 1024 * 1024, True)


def test_everybodys_variables_have_no_prefix_and_ours_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "81")
    monkeypatch.setenv("GATEWAY_PORT", "82")
    monkeypatch.setenv("GATEWAY_HEARTBEAT", "1.5")
    monkeypatch.setenv("HEARTBEAT", "2")
    settings = load()
    assert (settings.port, settings.heartbeat) == (81, 1.5)


def test_a_misspelt_setting_is_told_from_other_variables() -> None:
    set_by_others = ["GATEWAY_SERVICE_HOST", "GATEWAY_PORT_8080_TCP_ADDR", "GATEWAY_POOL_SIZE", "PORT", "POOLSIZE"]
    assert list(misspelt([*set_by_others, "GATEWAY_POOLSIZE", "GATEWAY_DATABASE_URL"])) == [
        ("GATEWAY_POOLSIZE", "GATEWAY_POOL_SIZE"),
        ("GATEWAY_DATABASE_URL", "DATABASE_URL"),
    ]


def test_a_file_of_variables_that_nobody_reads_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    assert unread_in(file, {}) == []
    file.write_text("# PORT=1\nexport DATABASE_URL=postgres://x\nPORT = 9000\nAPP_KEY=y\nHOST=::1\nPORT=9001\n")
    assert unread_in(file, {"HOST": "::1"}) == ["DATABASE_URL", "PORT"]
    file.write_bytes(b"\xff\xfePORT=1")
    assert unread_in(file, {}) == []


def test_a_flag_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "81")
    assert load(port="82", host=None).port == 82


def test_an_empty_variable_is_none_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "")
    monkeypatch.setenv("PORT", "")
    assert (load().database_url, load().port) == (None, 8080)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("PORT", "65536", "should be less than or equal to 65535"),
        ("PORT", "-1", "should be greater than or equal to 0"),
        ("PORT", "http", "should be a valid integer"),
        ("GATEWAY_HEARTBEAT", "0", "should be greater than 0"),
        ("GATEWAY_HEARTBEAT", "nan", "should be a finite number"),
        ("GATEWAY_SSE_MAX_AGE", "inf", "should be a finite number"),
        ("GATEWAY_DRAIN_TIMEOUT", "-0.1", "should be greater than or equal to 0"),
        ("GATEWAY_MAX_BODY", "0", "should be greater than or equal to 1"),
        ("GATEWAY_PAGE_BYTES", "1023", "should be greater than or equal to 1024"),
        ("GATEWAY_POOL_SIZE", "0", "should be greater than or equal to 1"),
        ("GATEWAY_MIGRATE", "perhaps", "should be a valid boolean"),
        ("GATEWAY_RETENTION", "7 days", "must be a number, or one with its unit, such as 250ms, 90s, 5min, 12h or 7d"),
        ("GATEWAY_MAX_BODY", "10mb", "must be a number, or one with its unit, such as 64KiB or 10MB"),
        ("GATEWAY_LOG_LEVEL", "loud", "should be 'debug', 'info', 'warning' or 'error'"),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSetting) as refused:
        load()
    assert str(refused.value).startswith(f"{name}='{value}' {words}")
    assert "\n" not in str(refused.value)


def test_a_level_may_be_written_in_capitals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_LOG_LEVEL", "INFO")
    monkeypatch.setenv("GATEWAY_LOG_FORMAT", "JSON")
    assert (load().log_level, load().log_format) == ("info", "json")


def test_a_bad_flag_is_named_as_it_was_typed() -> None:
    with pytest.raises(BadSetting, match=r"^--port='x' should be a valid integer"):
        load(port="x")


def test_a_bad_database_url_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "mysql://user:secret@host/db")
    with pytest.raises(BadSetting) as refused:
        load()
    assert str(refused.value) == "DATABASE_URL must begin with postgres:// or postgresql://"


@pytest.mark.parametrize(
    "login", ["u:sec/ret", "u:sec?ret", "u:sec#ret", "u:12/34", "u:12?34", "u:12#34", "u:se[cret", "sec/ret"]
)
def test_half_a_password_is_not_taken_for_a_host_and_shown(login: str) -> None:
    for url in (f"postgres://{login}@host/db", f"postgresql://{login}@[::1]:5432/db?sslmode=require"):
        with pytest.raises(BadSetting) as refused:
            load(database_url=url)
        assert str(refused.value) == (
            "--database-url cannot be read as an address: in a password, / ? and # are written %2F, %3F and %23"
        )


@pytest.mark.parametrize(
    "url",
    [
        "postgres://",
        "postgresql:///db?host=/tmp/socket&user=me@here",
        "postgres://user:p@ss%2F@host:5432/db",
        "postgres://[::1]:5432,other,10.0.0.1:1/db?sslmode=require&application_name=",
        "postgres://host/db?",
    ],
)
def test_a_database_url_may_have_every_form_that_postgres_knows(url: str) -> None:
    assert load(database_url=url).database_url == url


def test_a_password_does_not_appear_in_the_settings_printed_form() -> None:
    assert "secret" not in repr(load(database_url="postgres://user:secret@host/db"))


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load().port = 1


def test_a_setting_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValidationError, match="prot"):
        Settings(prot=1)  # type: ignore[call-arg]


def test_every_section_begins_at_a_setting_that_there_is() -> None:
    assert [section.title for section in sections()] == list(SECTIONS.values())


def test_every_setting_is_described_in_one_sentence() -> None:
    for row in (row for section in sections() for row in section.rows):
        assert re.fullmatch(r"[A-Z`]([^.]|\.\w)*\.", row.description), row


def test_every_time_and_size_says_its_unit() -> None:
    for name, field in Settings.model_fields.items():
        if field.annotation is float:
            assert (field.description or "").startswith("Seconds"), name
        if name.endswith(("_bytes", "_body")):
            assert (field.description or "").startswith("Bytes"), name


def test_the_manual_lists_the_settings_as_they_are() -> None:
    listed = re.search(r"<!-- settings -->\n(.*?)\n<!-- /settings -->", manual("settings"), re.DOTALL)
    assert listed is not None, "the manual has no <!-- settings --> ... <!-- /settings -->"
    assert listed[1].strip() == table()


@pytest.mark.parametrize(
    ("host", "given", "allowed"),
    [
        ("127.0.0.1", None, True),
        ("127.0.0.9", None, True),
        ("::1", None, True),
        ("localhost", None, True),
        ("0.0.0.0", None, False),
        ("::", None, False),
        ("10.0.0.1", None, False),
        ("example.com", None, False),
        ("127.0.0.1", False, False),
        ("0.0.0.0", True, True),
    ],
)
def test_webhooks_to_this_host_are_for_a_loopback_listener_only(host: str, given: bool | None, allowed: bool) -> None:
    assert load(host=host, allow_local_webhooks=given).local_webhooks is allowed


@pytest.mark.parametrize(
    ("value", "seconds"), [("90", 90), ("250ms", 0.25), ("1.5s", 1.5), ("5min", 300), ("12 h", 43_200), ("7d", 604_800)]
)
def test_a_time_may_be_written_with_its_unit(monkeypatch: pytest.MonkeyPatch, value: str, seconds: float) -> None:
    monkeypatch.setenv("GATEWAY_RETENTION", value)
    assert load().retention == seconds


@pytest.mark.parametrize(
    ("value", "size"), [("5000", 5000), ("64KiB", 65_536), ("10MB", 10_000_000), ("1 MiB", 1 << 20)]
)
def test_a_size_may_be_written_with_its_unit(monkeypatch: pytest.MonkeyPatch, value: str, size: int) -> None:
    monkeypatch.setenv("GATEWAY_MAX_EVENT", value)
    assert load().max_event == size


@pytest.mark.parametrize("value", ["5w", "s", "-5s", "1d2h", "9999999d"])
def test_a_time_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("GATEWAY_KEEP_ALIVE", value)
    with pytest.raises(BadSetting, match="GATEWAY_KEEP_ALIVE"):
        load()


@pytest.mark.parametrize("value", ["0", "65", "two"])
def test_the_number_of_workers_has_bounds(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("GATEWAY_WORKERS", value)
    with pytest.raises(BadSetting, match=f"^GATEWAY_WORKERS='{value}' should be "):
        load()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_time_and_size_may_have_its_unit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    field = Settings.model_fields[name]
    what = (field.description or "").partition(" ")[0]
    if what not in ("Seconds", "Bytes") or not field.default:
        return
    unit = "kB" if what == "Bytes" else "ms"
    given = round(field.default / 1000) if what == "Bytes" else round(field.default * 1000)
    monkeypatch.setenv(variable(name), f"{given}{unit}")
    assert getattr(load(), name) == pytest.approx(field.default, rel=0.05)
