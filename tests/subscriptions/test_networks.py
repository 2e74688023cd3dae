"""Which addresses webhooks may go to, by table: each inner network at its edges, and what lies just outside."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from gateway.subscriptions.networks import is_public

INNER = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/96",
    "::ffff:0:0/96",
    "64:ff9b:1::/48",
    "64:ff9b::a00:0/104",
    "64:ff9b::7f00:0/104",
    "64:ff9b::c000:c0/128",
    "100::/64",
    "2001::/32",
    "2001:2::/48",
    "2001:10::/28",
    "2001:20::/28",
    "2001:db8::/32",
    "2002::/16",
    "3fff::/20",
    "4000::/2",
    "5f00::/16",
    "fc00::/7",
    "fd00:ec2::254/128",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
]
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "169.253.255.255",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.0",
    "192.167.255.255",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "64:ff9b::808:808",
    "2001:200::1",
    "2001:4860:4860::8888",
    "2606:4700:4700::1111",
    "2a00:1450::1",
]


@pytest.mark.parametrize("network", INNER)
def test_an_inner_network_is_not_public_from_end_to_end(network: str) -> None:
    all_of_it = ip_network(network)
    for address in (all_of_it[0], all_of_it[-1], all_of_it[all_of_it.num_addresses // 2]):
        assert not is_public(address), address


@pytest.mark.parametrize("address", PUBLIC)
def test_what_lies_just_outside_is_public(address: str) -> None:
    assert is_public(ip_address(address))
