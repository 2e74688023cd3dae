"""What applications answer behind the gateway, and what their clients send through it, as the world writes it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
import pytest_asyncio

from tests.servers import PATIENCE, Running, serving

OK = b"Content-Length: 2\r\n\r\nok"
HEAD = b"HTTP/1.1 200 OK\r\n"
HINT = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"

# What the application writes, byte for byte, and the status that its client is given.
ANSWERS = {
    "a-status-of-999": (b"HTTP/1.1 999 Odd\r\n" + OK, 502),
    "a-status-of-600": (b"HTTP/1.1 600 Odd\r\n" + OK, 502),
    "a-status-of-four-digits": (b"HTTP/1.1 1000 Odd\r\n" + OK, 502),
    "a-status-below-100": (b"HTTP/1.1 099 Odd\r\n" + OK, 502),
    "an-unknown-status": (b"HTTP/1.1 299 Quite Odd\r\n" + OK, 299),
    "no-reason": (b"HTTP/1.1 200\r\n" + OK, 200),
    "a-reason-in-latin-1": (b"HTTP/1.1 200 \xe4\xf6\r\n" + OK, 200),
    "early-hints": (HINT + HEAD + OK, 200),
    "many-hints": (HINT + b"HTTP/1.1 102 Odd\r\n\r\n" + HINT + b"HTTP/1.1 199\r\nX-A:  \xe4\r\n\r\n" + HEAD + OK, 200),
    "hints-of-the-connection": (
        b"HTTP/1.1 103 Early Hints\r\nConnection: x-a\r\nx-a: 1\r\nx-b: 1\r\nContent-Length: 9\r\n\r\n" + HEAD + OK,
        200,
    ),
    "continue": (b"HTTP/1.1 100 Continue\r\n\r\n" + HINT + HEAD + OK, 200),
    "an-answer-that-looks-like-hints": (HEAD + b"Content-Length: %d\r\n\r\n%bok" % (len(HINT) + 2, HINT), 200),
    "hints-with-a-control-character": (b"HTTP/1.1 103 a\x01\r\nX-A: a\x01b\r\n\r\n" + HEAD + OK, 200),
    "hints-alone": (HINT, 502),
    "an-upgrade-that-nobody-asked-for": (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", 502),
    "a-control-character": (HEAD + b"X-A: a\x01b\r\n" + OK, 502),
    "a-nul": (HEAD + b"X-A: a\x00b\r\n" + OK, 502),
    "a-delete": (HEAD + b"X-A: a\x7fb\r\n" + OK, 502),
    "a-bare-cr": (HEAD + b"X-A: a\rb\r\n" + OK, 502),
    "a-tab": (HEAD + b"X-A: a\tb\t\r\n" + OK, 200),
    "latin-1": (HEAD + b"X-A: \xe4\r\n" + OK, 200),
    "a-folded-line": (HEAD + b"X-A: a\r\n b\r\n" + OK, 200),
    "a-space-before-a-colon": (HEAD + b"X-A : a\r\n" + OK, 502),
    "a-header-without-a-name": (HEAD + b": a\r\n" + OK, 502),
    "a-name-that-is-no-token": (HEAD + b"X(A): a\r\n" + OK, 502),
    "two-lengths": (HEAD + b"Content-Length: 3\r\n" + OK, 502),
    "a-negative-length": (HEAD + b"Content-Length: -2\r\n\r\nok", 502),
    "a-coding-that-nobody-knows": (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 502),
    "http-1.0": (b"HTTP/1.0 200 OK\r\n\r\nok", 200),
    "no-http": (b"\x16\x03\x01\r\n\r\n", 502),
    "nothing": (b"", 502),
    "a-head-without-end": (HEAD + b"X-A: " + b"a" * 200_000 + b"\r\n" + OK, 502),
}


# What its client is given before the answer.
BEFORE = {
    "early-hints": HINT,
    "many-hints": HINT + b"HTTP/1.1 102 Odd\r\n\r\n" + HINT + b"HTTP/1.1 199\r\nX-A: \xe4\r\n\r\n",
    "hints-of-the-connection": b"HTTP/1.1 103 Early Hints\r\nx-b: 1\r\n\r\n",
    "continue": HINT,
    "a-folded-line": b"",
    "hints-with-a-control-character": b"",
    "an-answer-that-looks-like-hints": b"",
}


class Application:
    """Writes what ANSWERS has for the path; keeps each request's head."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.port = 0
        self.go_on = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        if b" /slow " in head:
            for each in range(len(HINT)):
                writer.write(HINT[each : each + 1])
                await writer.drain()
            await self.go_on.wait()
            self.go_on.clear()
        answer, _ = ANSWERS.get(head.split()[1].decode()[1:], (HEAD + OK, 200))
        writer.write(answer)
        await writer.drain()
        writer.close()

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Of the last request, but for those of httpx."""
        lines = [line.partition(b": ")[::2] for line in self.heads[-1].split(b"\r\n")[1:-2]]
        return [(name.lower(), value) for name, value in lines]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def application() -> AsyncIterator[Application]:
    application = Application()
    async with await asyncio.start_server(application.serve, "127.0.0.1") as server:
        application.port = server.sockets[0].getsockname()[1]
        yield application


@pytest.fixture(scope="module")
def gateway(
    database_of_all: str, application: Application, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """It believes what its peers say of their clients: loopback is trusted where nothing else is. Answers to POSTs may
    be relayed.
    """
    rows = tmp_path_factory.mktemp("rows") / "relay.toml"
    rows.write_text('[[relay]]\nstart = "POST /{name}"\n')
    url = f"http://127.0.0.1:{application.port}"
    with serving(database_of_all, "direct", upstream=url, relay_file=rows) as running:
        yield running


WAYS = pytest.mark.parametrize("method", ["GET", "POST"])  # a POST is a row's of the relay
REFUSED_BY_THE_RELAY = ("a-folded-line", "hints-with-a-control-character")  # RFC 9112 §5.2 has it either way


@pytest.mark.asyncio(loop_scope="session")
@WAYS
@pytest.mark.parametrize("name", ANSWERS)
async def test_an_odd_answer_is_passed_on_or_a_bad_gateway(
    gateway: Running, name: str, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, status = ANSWERS[name]
    if method == "POST" and name in REFUSED_BY_THE_RELAY:
        status = 502
    async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE) as http:
        response = await http.request(method, f"/{name}")
    assert response.status_code == status
    ours = [record for record in caplog.records if record.name.startswith("gateway")]
    if status == 502:
        assert response.json()["error"]["type"] == "bad_gateway"
        assert [record.levelno for record in ours] == [logging.WARNING]
    else:
        assert response.content.endswith(b"ok")
        assert not ours


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(
    ("method", "name"),
    [
        (method, name)
        for name in BEFORE
        for method in ("GET", "POST")
        if method == "GET" or name not in REFUSED_BY_THE_RELAY
    ],
)
async def test_what_comes_before_an_answer_is_passed_on(gateway: Running, name: str, method: str) -> None:
    """RFC 9110 §15.2."""
    raw = await gateway.get_raw(f"/{name}", method=method)
    before, answer, body = raw.partition(HEAD)
    assert (before, answer, body[-2:]) == (BEFORE[name], HEAD, b"ok")


@pytest.mark.asyncio(loop_scope="session")
@WAYS
@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("an-unknown-status", b"HTTP/1.1 299 Quite Odd"),
        ("a-reason-in-latin-1", b"HTTP/1.1 200 \xe4\xf6"),
        ("a-tab", b"HTTP/1.1 200 OK"),
        ("no-reason", b"HTTP/1.1 200 "),
    ],
)
async def test_the_phrase_behind_a_status_is_passed_on(gateway: Running, name: str, line: bytes, method: str) -> None:
    raw = await gateway.get_raw(f"/{name}", method=method)
    assert raw.partition(b"\r\n")[0] == line
    assert raw.endswith(b"ok")


@pytest.mark.asyncio(loop_scope="session")
async def test_a_client_of_http_1_0_gets_the_answer_alone(gateway: Running) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"GET /early-hints HTTP/1.0\r\n\r\n")
    assert (await asyncio.wait_for(reader.read(), PATIENCE)).startswith(b"HTTP/1.1 200 ")
    writer.close()


@pytest.mark.asyncio(loop_scope="session")
async def test_what_comes_before_an_answer_comes_at_once(gateway: Running, application: Application) -> None:
    """And in the packets in which it came; each request of a connection has its own."""
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        for _ in range(2):
            writer.write(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
            assert await reader.readuntil(b"\r\n\r\n") == HINT
            application.go_on.set()
            assert (await reader.readuntil(b"\r\n\r\nok")).startswith(HEAD)
        writer.close()


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("named", ["host", "Host, close", "content-length", "keep-alive, HOST"])
async def test_connection_takes_away_nothing_that_is_for_all(
    gateway: Running, application: Application, named: str
) -> None:
    answer = await gateway.get_raw("/x", f"Connection: {named}", "Content-Length: 0")
    assert answer.startswith(b"HTTP/1.1 200 ")
    names = [name for name, _ in application.headers]
    assert names.count(b"host") == 1
    assert names.count(b"content-length") == 1


@pytest.mark.asyncio(loop_scope="session")
async def test_a_value_goes_on_without_the_blanks_around_it(gateway: Running, application: Application) -> None:
    assert (await gateway.get_raw("/x", "X-A: \t a\tb \t")).startswith(b"HTTP/1.1 200 ")
    assert (b"x-a", b"a\tb") in application.headers


@pytest.mark.asyncio(loop_scope="session")
async def test_a_trusted_proxy_is_believed_and_named(gateway: Running, application: Application) -> None:
    await gateway.get_raw("/x", "X-Forwarded-For: 203.0.113.7", "X-Forwarded-Host: app", "X-Forwarded-Proto: https")
    said = dict(application.headers)
    assert said[b"x-forwarded-for"] == b"203.0.113.7, 127.0.0.1"
    assert said[b"x-forwarded-host"] == b"app"
    assert said[b"x-forwarded-proto"] == b"https"


CLAIMS = [
    "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Forwarded-Prefix",
    "X-Forwarded-User", "X-Forwarded-Client-Cert", "X-Original-Forwarded-For", "X-Original-Host",
    "X-Vercel-Forwarded-For", "X-Forwarded", "Forwarded-For", "Forwarded", "Fly-Forwarded-Proto", "Fly-Client-IP",
    "CF-Connecting-IP", "CF-Connecting-IPv6", "CF-Pseudo-IPv4", "True-Client-IP", "X-Real-IP", "X-Client-IP",
    "Client-IP", "X-Cluster-Client-IP", "Fastly-Client-IP", "X-Azure-ClientIP", "X-Azure-SocketIP",
    "X-Appengine-User-IP", "DO-Connecting-IP", "X-NF-Client-Connection-IP", "Proxy-Client-IP", "WL-Proxy-Client-IP",
    "X-Envoy-External-Address", "CloudFront-Viewer-Address", "X-Remote-Addr", "Remote-Addr", "Remote-User",
    "X-Remote-User", "X-Remote-Group", "X-Remote-Extra-Scopes", "Client-Cert", "Client-Cert-Chain",
    "X-SSL-Client-Cert", "X-SSL-Client-Verify", "SSL-Client-S-DN", "X-Auth-Request-User", "X-Authenticated-Groups",
    "X-WebAuth-User", "X-Host",
]  # fmt: skip
NO_CLAIMS = [
    "Accept", "Authorization", "Cookie", "Origin", "Referer", "User-Agent", "X-Request-Id", "Traceparent",
    "X-CSRF-Token", "X-Client-Version", "X-Device-Address", "X-Ship", "X-Trip", "IP-Version", "Client-Id",
    "X-Shipping-Address", "Idempotency-Key", "X-Remotely", "X-Auth-Token", "Via",
]  # fmt: skip


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("trusted", [False, True], ids=["anybody", "trusted"])
async def test_who_a_client_is_only_a_trusted_proxy_may_say(
    database_of_all: str, application: Application, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "127.0.0.1" if trusted else "10.0.0.1")
    claims = [*CLAIMS, *[name.upper().replace("-", "_") for name in CLAIMS]]  # as CGI and WSGI spell them
    lines = [f"{name}: root" for name in (*claims, *NO_CLAIMS)]
    with serving(database_of_all, "direct", upstream=f"http://127.0.0.1:{application.port}") as running:
        assert (await running.get_raw("/x", *lines)).startswith(b"HTTP/1.1 200 ")
    said = [name.decode() for name, value in application.headers if value.startswith(b"root")]
    assert sorted(said) == sorted(name.lower() for name in [*NO_CLAIMS, *(claims if trusted else [])])
    if not trusted:
        own = [pair for pair in application.headers if pair[0].startswith(b"x-forwarded")]
        host = dict(application.headers)[b"host"]
        assert own == [(b"x-forwarded-for", b"127.0.0.1"), (b"x-forwarded-proto", b"http"), (b"x-forwarded-host", host)]


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("request_line", ["TRACE /x", "TRACE http://h/x", "CONNECT h:80"])
async def test_what_no_application_is_to_be_asked_is_refused(
    gateway: Running, application: Application, request_line: str
) -> None:
    method, target = request_line.split()
    before = len(application.heads)
    answer = await gateway.get_raw(target, method=method)
    assert answer.startswith(b"HTTP/1.1 405 ")
    assert b"\r\nallow: GET, HEAD, PUT, POST, DELETE, OPTIONS\r\n" in answer
    assert b'"method_not_allowed"' in answer
    assert len(application.heads) == before


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("target", ["http://app.example:81/x", "http://user:secret@app.example:81/x"])
async def test_the_host_of_a_whole_url_replaces_the_header(
    gateway: Running, application: Application, target: str
) -> None:
    """RFC 9112 §3.2.2. The header is `h`."""
    assert (await gateway.get_raw(target)).startswith(b"HTTP/1.1 200 ")
    assert application.heads[-1].startswith(b"GET /x HTTP/1.1\r\n")
    said = application.headers
    assert [value for name, value in said if name == b"host"] == [b"app.example:81"]
    assert dict(said)[b"x-forwarded-host"] == b"app.example:81"
    made = await gateway.get_raw(target.replace("/x", "/runs/x"), "Content-Length: 0", method="PUT")
    assert b"\r\nlocation: http://app.example:81/runs/x\r\n" in made or made.startswith(b"HTTP/1.1 200 ")
