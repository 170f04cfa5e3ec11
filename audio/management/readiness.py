"""Tells systemd that a service is ready (sd_notify(3)): units of `Type=notify` wait for it."""

import socket

from django.conf import settings


def tell() -> None:
    """Say so to NOTIFY_SOCKET, which systemd sets; without it there is nobody to tell."""
    address = settings.NOTIFY_SOCKET
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.connect(f"\0{address[1:]}" if address.startswith("@") else address)
        sender.sendall(b"READY=1")
