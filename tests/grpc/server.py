"""A gRPC server that says on its standard output what it was asked. Messages are plain bytes."""

import argparse
import json
import sys
import threading
from concurrent import futures

import grpc


def say(**what):
    sys.stdout.write("seen " + json.dumps(what) + "\n")
    sys.stdout.flush()


def note(method, context, **more):
    fields = {name: value for name, value in context.invocation_metadata() if isinstance(value, str)}
    names = context.auth_context().get("x509_common_name", [])
    say(method=method, fields=fields, client=names[0].decode() if names else None,
        timed=context.time_remaining() is not None, **more)


def unary(request, context):
    note("Unary", context, bytes=len(request))
    context.send_initial_metadata((("x-first", "1"),))
    context.set_trailing_metadata((("x-last", "2"),))
    return request


def fail(request, context):
    note("Fail", context)
    context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you")


def hang(request, context):
    ended = threading.Event()
    context.add_callback(ended.set)
    note("Hang", context)
    if request == b"head first":
        context.send_initial_metadata((("x-first", "1"),))
    ended.wait()
    say(method="Hang", cancelled=not context.is_active())
    return b""


def server_stream(request, context):
    asked = json.loads(request)
    note("ServerStream", context)
    for number in range(asked["count"]):
        yield number.to_bytes(4, "big") + bytes(asked["size"])
    if "code" in asked:
        context.abort(getattr(grpc.StatusCode, asked["code"]), "half-way")


def client_stream(requests, context):
    count = size = 0
    for message in requests:
        count, size = count + 1, size + len(message)
    note("ClientStream", context)
    return json.dumps({"count": count, "bytes": size}).encode()


def bidi(requests, context):
    note("Bidi", context)
    for message in requests:
        yield message


class Handlers(grpc.GenericRpcHandler):
    methods = {
        "/test.Echo/Unary": grpc.unary_unary_rpc_method_handler(unary),
        "/test.Echo/Fail": grpc.unary_unary_rpc_method_handler(fail),
        "/test.Echo/Hang": grpc.unary_unary_rpc_method_handler(hang),
        "/test.Echo/ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
        "/test.Echo/ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
        "/test.Echo/Bidi": grpc.stream_stream_rpc_method_handler(bidi),
    }

    def service(self, details):
        return self.methods.get(details.method)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cert")
    parser.add_argument("--key")
    parser.add_argument("--client-ca", help="clients must show a certificate of this authority")
    parser.add_argument("--option", action="append", default=[], help="a channel argument, name=integer")
    arguments = parser.parse_args()
    options = [("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]
    options += [(name, int(value)) for name, value in (option.split("=") for option in arguments.option)]
    server = grpc.server(futures.ThreadPoolExecutor(64), handlers=(Handlers(),), options=options)
    if arguments.cert:
        read = lambda path: open(path, "rb").read() if path else None
        pair = (read(arguments.key), read(arguments.cert))
        ca = read(arguments.client_ca)
        credentials = grpc.ssl_server_credentials([pair], ca, require_client_auth=ca is not None)
        port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"listening on {port}", flush=True)
    server.wait_for_termination()


main()
