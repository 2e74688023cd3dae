from __future__ import annotations

import pytest

from gateway.subscriptions.errors import Code, Refusal
from gateway.subscriptions.targets import check_webhook_url, choose_address

ACCEPTED = [
    "https://worker.example/hooks",
    "https://worker.example:8443/hooks?tenant=1",
    "https://8.8.8.8/hook",
    "HTTPS://Worker.Example/hook",
    "http://localhost:3000/hook",
    "http://127.0.0.1:3000/hook",
    "http://127.9.9.9/hook",
]
REFUSED = [
    "",
    "worker.example/hook",
    "//worker.example/hook",
    "https://",
    "https:///hook",
    "ftp://worker.example/hook",
    "file:///etc/passwd",
    "http://worker.example/hook",
    "http://10.0.0.1/hook",
    "http://169.254.169.254/latest/meta-data",
    "https://localhost/hook",
    "https://localhost./hook",
    "https://app.localhost/hook",
    "https://metadata.google.internal/computeMetadata",
    "https://printer.local/hook",
    "https://intranet/hook",
    "https://10.0.0.1/hook",
    "https://172.16.0.1/hook",
    "https://172.31.255.255/hook",
    "https://192.168.1.1/hook",
    "https://127.0.0.1/hook",
    "https://0.0.0.0/hook",
    "https://169.254.169.254/hook",
    "https://100.64.0.1/hook",
    "https://224.0.0.1/hook",
    "https://255.255.255.255/hook",
    "https://2130706433/hook",
    "https://0x7f000001/hook",
    "https://0177.0.0.1/hook",
    "https://127.1/hook",
    "https://10.1/hook",
    "https://999.1.1.1/hook",
    "https://[::1]/hook",
    "https://[2606:4700::1111]/hook",
    "http://[::1]/hook",
    "https://user:secret@worker.example/hook",
    "https://worker.example\\@10.0.0.1/hook",
    "https://worker.example/a b",
    "https://worker.example/\n",
    "https://worker.example:99999/hook",
    "https://" + "a" * 3000 + ".example/",
    "https://192.0.0.192/hook",
    "https://168.63.129.16/hook",
    "https://xn--a/",
    "https://xn--a.example/",
]


@pytest.mark.parametrize("url", ACCEPTED)
def test_public_https_and_this_very_host_are_accepted(url: str) -> None:
    assert check_webhook_url(url, allow_local=True) == url


@pytest.mark.parametrize("url", REFUSED)
def test_what_leads_inside_or_nowhere_is_refused(url: str) -> None:
    with pytest.raises(Refusal) as refusal:
        check_webhook_url(url, allow_local=True)
    assert refusal.value.code is Code.WEBHOOK_URL_REJECTED


@pytest.mark.parametrize("url", [url for url in ACCEPTED if url.startswith("http:")])
def test_plain_http_can_be_forbidden_altogether(url: str) -> None:
    with pytest.raises(Refusal):
        check_webhook_url(url, allow_local=False)


PUBLIC = "https://worker.example/hook"


@pytest.mark.parametrize(
    "addresses",
    [
        [],
        ["10.0.0.1"],
        ["127.0.0.1"],
        ["169.254.169.254"],
        ["8.8.8.8", "192.168.0.1"],
        ["::1"],
        ["fe80::1%eth0"],
        ["fd00::1"],
        ["fdaa::3"],
        ["::ffff:10.0.0.1"],
        ["::ffff:8.8.8.8"],
        ["64:ff9b::a00:1"],
        ["2002:a00:1::"],
        ["ff02::1"],
        ["192.0.0.192"],
        ["168.63.129.16"],
        ["64:ff9b::a83f:8110"],
        ["64:ff9b:1::808:808"],
        ["fec0::1"],
        ["::808:808"],
        ["5f00::1"],
    ],
)
def test_a_name_that_leads_inside_is_not_called(addresses: list[str]) -> None:
    with pytest.raises(Refusal):
        choose_address(PUBLIC, addresses, 0)


def test_each_attempt_takes_the_next_address_and_ipv4_is_first() -> None:
    addresses = ["2606:4700:4700::1111", "8.8.8.8", "1.1.1.1"]
    assert [choose_address(PUBLIC, addresses, attempt) for attempt in range(4)] == [
        "1.1.1.1",
        "8.8.8.8",
        "2606:4700:4700::1111",
        "1.1.1.1",
    ]


def test_plain_http_leads_to_this_host_alone() -> None:
    assert choose_address("http://localhost:1/hook", ["::1", "127.0.0.1"], 0) == "127.0.0.1"
    with pytest.raises(Refusal):
        choose_address("http://localhost:1/hook", ["8.8.8.8"], 0)
