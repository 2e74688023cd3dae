from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.subscriptions.attempts import Outcome
from gateway.subscriptions.records import Delivery, Link
from gateway.subscriptions.signing import Keys, Signer
from gateway.subscriptions.webhooks import Webhooks
from tests.subscriptions.tools import Received, Receiver, hangs, says

KEYS = Keys([Signer(b"\1" * 32)], b"\2" * 32)


async def resolve(tenant: str, host: str) -> Sequence[str]:
    """The names of these tests: one that leads inside, one that leads nowhere, all others to this host."""
    if host == "nowhere.example":
        raise OSError("no such host")
    return ["8.8.8.8", "10.0.0.1"] if host == "inside.example" else ["127.0.0.1"]


@pytest_asyncio.fixture
async def webhooks() -> AsyncIterator[Webhooks]:
    webhooks = Webhooks(lambda delivery, _: {"wake_id": delivery.wake_id}, allow_local=True, resolve=resolve)
    yield webhooks
    await webhooks.close()


def to(url: str) -> Delivery:
    return Delivery(1, "s", url, "w_1", 1, 0, [Link("a", True, 0, 1, True)])


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (says(b'{"done":true}'), Outcome.DONE),
        (says(b'{"done":true}', "202 Accepted"), Outcome.DONE),
        (says(b'{"done":"true"}'), Outcome.TAKEN),
        (says(b'{"done":1}'), Outcome.TAKEN),
        (says(b"[]"), Outcome.TAKEN),
        (says(b""), Outcome.TAKEN),
        (says(b"thank you"), Outcome.TAKEN),
        (says(b" " * 70_000 + b'{"done":true}'), Outcome.TAKEN),
        (says(b'{"done":true}', "500 Oh"), Outcome.FAILED),
        (says(b'{"done":true}', "404 Not Found"), Outcome.FAILED),
    ],
)
async def test_an_answer_means_what_the_protocol_says(
    webhooks: Webhooks, receiver: Receiver, answer: object, outcome: Outcome
) -> None:
    receiver.answer = answer  # type: ignore[assignment]
    assert (await webhooks.deliver(to(receiver.url), KEYS))[0] is outcome
    assert receiver.received[0].raw == b'{"wake_id":"w_1"}'


async def test_the_connection_goes_to_the_judged_address_with_the_host(webhooks: Webhooks, receiver: Receiver) -> None:
    url = receiver.url.replace("127.0.0.1", "127.7.7.7")  # where nobody listens; these tests resolve it to who does
    assert (await webhooks.deliver(to(url), KEYS))[0] is Outcome.TAKEN
    assert receiver.received[0].head["host"] == url.split("/")[2]


@pytest.mark.parametrize(("name", "outcome"), [("worker.example", Outcome.TAKEN), ("other.example", Outcome.FAILED)])
async def test_the_certificate_must_be_the_hosts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, outcome: Outcome
) -> None:
    monkeypatch.setattr("gateway.subscriptions.webhooks.choose_address", lambda *_: "127.0.0.1")
    certificate, key = self_signed(name, tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    trusting = ssl.create_default_context(cafile=str(certificate))
    webhooks = Webhooks(lambda *_: {}, allow_local=True, resolve=resolve, tls=trusting)
    async with Receiver(server) as receiver:
        url = receiver.url.replace("http://127.0.0.1", "https://worker.example")
        result, reason = await webhooks.deliver(to(url), KEYS)
    await webhooks.close()
    assert result is outcome
    assert outcome is Outcome.TAKEN or "CERTIFICATE_VERIFY_FAILED" in reason


def self_signed(name: str, folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), 1, now - timedelta(1), now + timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "certificate", folder / "key"


async def test_a_redirect_is_not_followed(webhooks: Webhooks, receiver: Receiver) -> None:
    async def elsewhere(_: Received) -> bytes:
        return f"HTTP/1.1 307 Go\r\nlocation: {receiver.url}\r\ncontent-length: 0\r\n\r\n".encode()

    receiver.answer = elsewhere
    assert (await webhooks.deliver(to(receiver.url), KEYS)) == (Outcome.FAILED, "status 307")
    assert len(receiver.received) == 1


@pytest.mark.parametrize(
    "url",
    [
        "https://inside.example/hook",
        "https://nowhere.example/hook",
        "https://worker.example/hook",  # these tests resolve it to this very host
        "http://worker.example/hook",
        "https://a..example/hook",
        f"https://{'a' * 70}.example/hook",
        "not a url",
    ],
)
async def test_what_must_not_or_cannot_be_called_is_a_failed_attempt(webhooks: Webhooks, url: str) -> None:
    outcome, reason = await webhooks.deliver(to(url), KEYS)
    assert outcome is Outcome.FAILED
    assert reason


async def test_nobody_there_is_a_failed_attempt(webhooks: Webhooks) -> None:
    async with Receiver() as receiver:
        url = receiver.url
    assert (await webhooks.deliver(to(url), KEYS))[0] is Outcome.FAILED


async def test_an_attempt_that_is_not_answered_ends_in_time(
    webhooks: Webhooks, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.subscriptions.webhooks.TIMEOUT", 0.05)

    receiver.answer, _ = hangs()
    outcome, reason = await webhooks.deliver(to(receiver.url), KEYS)
    assert outcome is Outcome.FAILED
    assert reason.startswith("TimeoutError")


@pytest.mark.parametrize(
    "endless",
    [
        b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" * 1000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
        b"x-more: and more\r\n" * 1000,
    ],
)
async def test_an_answer_that_never_begins_ends_by_its_bytes(
    webhooks: Webhooks, receiver: Receiver, endless: bytes
) -> None:
    sent = 0

    async def answer(_: Received) -> bytes:
        nonlocal sent
        for _piece in range(1000):  # 15 MB and more, were they read
            receiver.writers[-1].write(endless if sent else b"HTTP/1.1 200 OK\r\n" * (endless[0:1] == b"x") + endless)
            await receiver.writers[-1].drain()
            sent += len(endless)
        return b""

    receiver.answer = answer
    outcome, reason = await webhooks.deliver(to(receiver.url), KEYS)
    assert outcome is Outcome.FAILED
    assert reason.startswith("RemoteProtocolError")
    assert sent < 12 << 20, "the rest was never taken"


async def test_a_long_answer_is_read_no_further_than_its_limit(webhooks: Webhooks, receiver: Receiver) -> None:
    receiver.answer = says(b" " * (1 << 20) + b'{"done":true}')
    assert (await webhooks.deliver(to(receiver.url), KEYS))[0] is Outcome.TAKEN
