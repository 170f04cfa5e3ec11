"""Which addresses a webhook may be sent to."""

from ipaddress import ip_address, ip_network

import pytest

from audio.webhooks.networks import is_allowed, is_named, parsed

INSIDE = [
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1",
    "169.254.169.254", "192.0.0.1", "192.0.2.1", "198.18.0.1", "203.0.113.5", "224.0.0.1", "239.255.255.250",
    "240.0.0.1", "255.255.255.255",
    "::", "::1", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "ff0e::1", "fec0::1", "2001:db8::1", "100::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:0.0.0.0", "::ffff:169.254.169.254", "::127.0.0.1",
    "2002:7f00:1::", "2002:a00:1::1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1",
    "2001:0:7f00:1::",
]  # fmt: skip
OUTSIDE = ["8.8.8.8", "1.1.1.1", "93.184.216.34", "::ffff:8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "2a00::1"]


@pytest.mark.parametrize("text", INSIDE)
def test_an_address_that_is_not_public_is_rejected(text):
    assert not is_allowed(ip_address(text), ())


@pytest.mark.parametrize("text", OUTSIDE)
def test_a_public_address_is_allowed(text):
    assert is_allowed(ip_address(text), ())


def test_a_named_network_is_allowed_and_no_other():
    named = [ip_network("10.1.0.0/16"), ip_network("fd00::/8")]
    assert is_allowed(ip_address("10.1.2.3"), named)
    assert is_allowed(ip_address("::ffff:10.1.2.3"), named)
    assert is_allowed(ip_address("fd12::1"), named)
    assert not is_allowed(ip_address("10.2.0.1"), named)
    assert not is_named(ip_address("8.8.8.8"), named)


def test_a_name_is_no_address():
    assert parsed("localhost") is None
    assert parsed("fe80::1%eth0") == ip_address("fe80::1")
