"""Begins handshakes with a port of the loopback address, as many as are asked for, and goes no further with any of them."""

import socket
import sys
import time

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection


def main(port, count):
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["h3"], server_name="localhost")
    for _ in range(count):
        connection = QuicConnection(configuration=configuration)
        connection.connect(("127.0.0.1", port), now=time.time())
        for datagram, address in connection.datagrams_to_send(now=time.time()):
            client.sendto(datagram, address)


main(int(sys.argv[1]), int(sys.argv[2]))
