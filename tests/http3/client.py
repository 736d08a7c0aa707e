"""An HTTP/3 client that does what it reads on its standard input, one JSON object a line, and prints how each went.

The argument is a JSON object too: `port`, `name` (for SNI and the certificate), `ca` (a file), and where asked for `host` (an address other
than 127.0.0.1), `identity` (files of certificate and key) and `window` (bytes that may come on a stream, and no more, whatever was read).
The first line that is printed is `connected`, with what the gateway is and grants, or `refused`.
"""

import asyncio
import hashlib
import json
import sys

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import FrameType, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StopSendingReceived, StreamReset

# Longest body that is shown.
SHOWN = 4096
# Longest line that is read: bytes are written as two digits.
LINE = 1 << 20


class Http3(H3Connection):
    """Notes what the library keeps to itself, and knows what it does not: an answer to HEAD tells a length and has no body."""

    def __init__(self, quic):
        super().__init__(quic)
        self.goaway = asyncio.Event()
        self.without_body = set()

    def _check_content_length(self, stream):
        if stream.stream_id not in self.without_body:
            super()._check_content_length(stream)

    def _check_control_frame_type(self, frame_type):
        super()._check_control_frame_type(frame_type)
        if frame_type == FrameType.GOAWAY:
            self.goaway.set()


class Exchange:
    """What has come on one stream."""

    def __init__(self):
        self.heads = []
        self.body = bytearray()
        self.length = 0
        self.digest = hashlib.sha256()
        self.reset = None
        self.stopped = None
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()

    def told(self):
        heads = [{name.decode(): value.decode() for name, value in head} for head in self.heads]
        final = [at for at, head in enumerate(heads) if head.get(":status", "1")[0] != "1"]
        head = heads[final[0]] if final else {}
        return {
            "status": int(head.get(":status", 0)),
            "headers": head,
            "interim": [int(head[":status"]) for head in heads[: final[0] if final else None]],
            "trailers": heads[final[0] + 1] if final and len(heads) > final[0] + 1 else None,
            "body": self.body[:SHOWN].decode(errors="replace"),
            "length": self.length,
            "sha256": self.digest.hexdigest(),
            "reset": self.reset,
            "stopped": self.stopped,
        }


class Client(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = Http3(self._quic)
        self.exchanges = {}
        self.closed = asyncio.Event()
        self.close_code = None

    def exchange(self, stream):
        return self.exchanges.setdefault(stream, Exchange())

    def quic_event_received(self, event):
        if isinstance(event, ConnectionTerminated):
            self.close_code = event.error_code
            self.closed.set()
            for exchange in self.exchanges.values():
                exchange.begun.set()
                exchange.ended.set()
        elif isinstance(event, StreamReset):
            exchange = self.exchange(event.stream_id)
            exchange.reset = event.error_code
            exchange.begun.set()
            exchange.ended.set()
        elif isinstance(event, StopSendingReceived):
            self.exchange(event.stream_id).stopped = event.error_code
        for event in self.http.handle_event(event):
            exchange = self.exchange(event.stream_id)
            if isinstance(event, HeadersReceived):
                exchange.heads.append(event.headers)
                exchange.begun.set()
            elif isinstance(event, DataReceived):
                exchange.body += event.data[: max(0, SHOWN - len(exchange.body))]
                exchange.length += len(event.data)
                exchange.digest.update(event.data)
            if event.stream_ended:
                exchange.ended.set()

    def begin(self, asked):
        """Sends the head of a request."""
        stream = self._quic.get_next_available_stream_id()
        fields = [(b":method", asked.get("method", "GET").encode())]
        fields += [(b":scheme", b"https"), (b":authority", asked["authority"].encode())]
        fields += [(b":path", asked.get("path", "/").encode())]
        if "fields" in asked:
            fields = []
        for name, value in asked.get("fields", []) + asked.get("headers", []):
            fields.append((name.encode(), value.encode()))
        if asked.get("method") == "HEAD":
            self.http.without_body.add(stream)
        ends = "body" not in asked and "size" not in asked and not asked.get("open")
        self.http.send_headers(stream, fields, end_stream=ends)
        self.transmit()
        return stream

    def finish(self, stream, asked):
        """Sends the body of a request, and what follows it."""
        body = asked["body"].encode() if "body" in asked else bytes(range(256)) * (asked["size"] // 256)
        trailers = [(name.encode(), value.encode()) for name, value in asked.get("trailers", [])]
        self.http.send_data(stream, body, end_stream=not trailers)
        if trailers:
            self.http.send_headers(stream, trailers, end_stream=True)
        self.transmit()
        return hashlib.sha256(body).hexdigest()

    async def request(self, asked):
        """A whole request, and its answer."""
        stream = self.begin(asked)
        sent = None
        if asked.get("wait"):
            await self.exchange(stream).begun.wait()
        if "body" in asked or "size" in asked:
            sent = self.finish(stream, asked)
        await self.exchange(stream).ended.wait()
        return self.exchanges[stream].told() | {"sent": sent}

    async def many(self, asked):
        """So many requests at once."""
        answers = await asyncio.gather(*(self.request(asked) for _ in range(asked["count"])))
        return {"statuses": [answer["status"] for answer in answers], "lengths": [answer["length"] for answer in answers]}

    async def late(self, asked):
        """So many requests whose streams end once all of them have reached the gateway. `reserved`: with a frame of no meaning."""
        streams = [self.begin(asked | {"open": True}) for _ in range(asked["count"])]
        if asked.get("reserved"):
            for stream in streams:
                # Its type, of those that RFC 9114 §7.2.8 reserves, its length, and what it carries.
                self._quic.send_stream_data(stream, b"\x21\x04none")
        # It has read what came before that by then.
        await self.request({"authority": asked["authority"]})
        for stream in streams:
            self._quic.send_stream_data(stream, b"", end_stream=True)
        self.transmit()
        await asyncio.gather(*(self.exchange(stream).ended.wait() for stream in streams))
        return {"statuses": [self.exchanges[stream].told()["status"] for stream in streams]}

    async def cancel(self, asked):
        """So many requests that are given up as soon as they are sent."""
        for _ in range(asked["count"]):
            self._quic.stop_stream(self.begin(asked), 0x10C)
            self.transmit()
        return {"cancelled": True}

    async def start(self, asked):
        """A request whose answer is not waited for; of a body that it has, as much is sent as the gateway takes."""
        stream = self.begin(asked)
        if "size" in asked:
            self.finish(stream, asked)
        return {"stream": stream}

    async def give_up(self, asked):
        """Wants nothing more of a request."""
        self._quic.stop_stream(asked["stream"], 0x10C)
        self.transmit()
        return {"cancelled": True}

    async def hold(self, asked):
        """A request whose answer goes on."""
        stream = self.begin(asked)
        await self.exchange(stream).begun.wait()
        return {"stream": stream, "status": self.exchanges[stream].told()["status"]}

    async def rest(self, asked):
        """What has become of a request that was held."""
        await self.exchange(asked["stream"]).ended.wait()
        return self.exchanges[asked["stream"]].told()

    async def raw(self, asked):
        """Bytes on a stream of their own; what the gateway says to them. `head`: its answer has no body."""
        stream = self._quic.get_next_available_stream_id(is_unidirectional=asked.get("one_way", False))
        exchange = self.exchange(stream)
        if asked.get("head"):
            self.http.without_body.add(stream)
        for piece in asked["bytes"]:
            self._quic.send_stream_data(stream, bytes.fromhex(piece), end_stream=False)
        if asked.get("end"):
            self._quic.send_stream_data(stream, b"", end_stream=True)
        self.transmit()
        if asked.get("one_way"):
            await self.closed.wait()
        else:
            await exchange.ended.wait()
        return exchange.told() | {"closed": self.close_code}

    async def goaway(self, asked):
        """Waits until the gateway has said that the connection ends."""
        await self.http.goaway.wait()
        return {"goaway": True}

    async def leave(self, asked):
        """Ends the connection."""
        self.close()
        await self.wait_closed()
        return {"left": True}

    async def over(self, asked):
        """Waits for the end of the connection."""
        await self.closed.wait()
        return {"closed": self.close_code}


async def serve(client):
    lines = asyncio.StreamReader(limit=LINE)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        asked = json.loads(line)
        print(json.dumps(await getattr(client, asked["do"])(asked)), flush=True)


class Miser(Client):
    """Opens no window again."""

    def __init__(self, quic, *args, **kwargs):
        super().__init__(quic, *args, **kwargs)
        quic._write_connection_limits = quic._write_stream_limits = lambda *args, **kwargs: None


async def main(asked):
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["h3"], server_name=asked["name"])
    protocol = Client
    if "window" in asked:
        configuration.max_stream_data = asked["window"]
        protocol = Miser
    configuration.load_verify_locations(asked["ca"])
    if "identity" in asked:
        configuration.load_cert_chain(*asked["identity"])
    try:
        host = asked.get("host", "127.0.0.1")
        async with connect(host, asked["port"], configuration=configuration, create_protocol=protocol) as client:
            names = client._quic.tls._peer_certificate.subject.rfc4514_string()
            serial = str(client._quic.tls._peer_certificate.serial_number)
            # Bytes that may come on all streams before the gateway has read any.
            window = client._quic._remote_max_data
            told = {"connected": True, "subject": names, "serial": serial, "window": window}
            print(json.dumps(told), flush=True)
            await serve(client)
    except ConnectionError as error:
        print(json.dumps({"refused": str(error)}), flush=True)


asyncio.run(main(json.loads(sys.argv[1])))
