"""Makes one kind of gRPC calls and prints how they went, as one JSON object. Messages are plain bytes."""

import collections
import hashlib
import json
import sys
import threading
import time
from concurrent import futures

import grpc

OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # What fails is to be seen: no call is made twice behind our back.
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
]


def ended(call):
    return {
        "code": call.code().name,
        "details": call.details(),
        "first": dict(call.initial_metadata() or ()),
        "last": {name: value for name, value in call.trailing_metadata() or () if isinstance(value, str)},
    }


def unary(channel, asked):
    body = bytes(range(256)) * (asked.get("size", 256) // 256)
    method = channel.unary_unary("/test.Echo/" + asked.get("method", "Unary"))
    try:
        answer, call = method.with_call(
            body, timeout=asked.get("timeout", 60), metadata=[tuple(pair) for pair in asked.get("metadata", [])])
        return ended(call) | {"same": answer == body}
    except grpc.RpcError as error:
        return ended(error)


def server_stream(channel, asked):
    call = channel.unary_stream("/test.Echo/ServerStream")(json.dumps(asked).encode(), timeout=60)
    numbers = []
    try:
        for message in call:
            numbers.append(int.from_bytes(message[:4], "big"))
    except grpc.RpcError:
        pass
    return ended(call) | {"count": len(numbers), "in_order": numbers == list(range(len(numbers)))}


def client_stream(channel, asked):
    messages = (bytes(asked["size"]) for _ in range(asked["count"]))
    answer, call = channel.stream_unary("/test.Echo/ClientStream").with_call(messages, timeout=60)
    return ended(call) | json.loads(answer)


def bidi(channel, asked):
    """Sends all messages without waiting, unless `in_turns`: then each only after the answer to the one before."""
    sent, received = hashlib.sha256(), hashlib.sha256()
    turn = threading.Semaphore(1)

    def messages():
        for number in range(asked["count"]):
            if asked.get("in_turns"):
                turn.acquire()
            message = number.to_bytes(4, "big") + bytes(asked["size"])
            sent.update(message)
            yield message

    call = channel.stream_stream("/test.Echo/Bidi")(messages(), timeout=60)
    count = 0
    for message in call:
        received.update(message)
        count += 1
        turn.release()
    return ended(call) | {"count": count, "same": sent.digest() == received.digest()}


def cancel(channel, asked):
    """Leaves once the head of the answer has come."""
    # As a stream: of a single answer grpcio tells the head only with all the rest.
    call = channel.unary_stream("/test.Echo/Hang")(b"head first", timeout=60)
    call.initial_metadata()
    call.cancel()
    return {"cancelled": call.cancelled()}


def wait(channel, asked):
    """Waits for the end of a call to which the server says nothing but the head."""
    call = channel.unary_stream("/test.Echo/Hang")(b"head first", timeout=60)
    try:
        for _ in call:
            pass
    except grpc.RpcError:
        pass
    return ended(call)


def load(channel, asked):
    """Calls without pause from several threads, for some seconds."""
    until = time.monotonic() + asked["seconds"]
    method = channel.unary_unary("/test.Echo/Unary")

    def run():
        codes = collections.Counter()
        while time.monotonic() < until:
            try:
                method(b"x" * 100, timeout=30)
                codes["OK"] += 1
            except grpc.RpcError as error:
                codes[f"{error.code().name}: {error.details()}"] += 1
        return codes

    with futures.ThreadPoolExecutor(asked["threads"]) as pool:
        running = [pool.submit(run) for _ in range(asked["threads"])]
        return dict(sum((one.result() for one in running), collections.Counter()))


def main():
    address, kind, asked = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    with grpc.insecure_channel(address, OPTIONS) as channel:
        kinds = {"unary": unary, "server_stream": server_stream, "client_stream": client_stream, "bidi": bidi,
                 "cancel": cancel, "wait": wait, "load": load}
        print("ended " + json.dumps(kinds[kind](channel, asked)), flush=True)


main()
