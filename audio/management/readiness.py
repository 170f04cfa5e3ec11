"""The report to systemd that a service is ready (sd_notify(3)). Units of `Type=notify` wait for it."""

import socket

from django.conf import settings


def tell() -> None:
    """Report readiness to the socket in NOTIFY_SOCKET, if systemd has set it."""
    address = settings.NOTIFY_SOCKET
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.connect(f"\0{address[1:]}" if address.startswith("@") else address)
        sender.sendall(b"READY=1")
