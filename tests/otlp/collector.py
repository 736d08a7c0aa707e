"""An OpenTelemetry collector that reads OTLP/HTTP with the official messages and says on its standard output what it got."""

import argparse
import http.server
import json
import ssl

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

MESSAGES = {"/v1/traces": ExportTraceServiceRequest, "/v1/metrics": ExportMetricsServiceRequest}


def value(any_value):
    (kind,) = any_value
    return int(any_value[kind]) if kind == "intValue" else any_value[kind]


def attributes(item):
    return {one["key"]: value(one["value"]) for one in item.get("attributes", [])}


def identifier(span, name):
    return getattr(span, name).hex()


def spans(message):
    for resource in message.resource_spans:
        about = attributes(MessageToDict(resource.resource))
        for scope in resource.scope_spans:
            for span in scope.spans:
                plain = MessageToDict(span)
                yield {
                    "resource": about, "scope": scope.scope.name, "name": span.name, "kind": plain["kind"],
                    "trace": identifier(span, "trace_id"), "id": identifier(span, "span_id"),
                    "parent": identifier(span, "parent_span_id"), "state": span.trace_state,
                    "attributes": attributes(plain), "status": plain.get("status", {}),
                    "nanoseconds": span.end_time_unix_nano - span.start_time_unix_nano,
                }


def metrics(message):
    for resource in message.resource_metrics:
        about = attributes(MessageToDict(resource.resource))
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                data = getattr(metric, metric.WhichOneof("data"))
                points = [{"labels": attributes(MessageToDict(point)), **MessageToDict(point)} for point in data.data_points]
                yield {"resource": about, "metric": metric.name, "kind": metric.WhichOneof("data"), "points": points}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        message = MESSAGES[self.path].FromString(body)
        for item in spans(message) if self.path == "/v1/traces" else metrics(message):
            item["authorization"] = self.headers.get("Authorization")
            print("got " + json.dumps(item), flush=True)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cert")
    parser.add_argument("--key")
    arguments = parser.parse_args()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if arguments.cert:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(arguments.cert, arguments.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    print(f"listening on {server.server_port}", flush=True)
    server.serve_forever()


main()
