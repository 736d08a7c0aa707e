"""An origin for uvicorn (`asgi`) and gunicorn (`wsgi`): says on standard output how it has read each request, and answers 200."""

import json
import sys


def say(method, target, path, host, body):
    seen = {"method": method, "target": target, "path": path, "host": host, "body": body}
    sys.stdout.write("seen " + json.dumps(seen) + "\n")
    sys.stdout.flush()


def text(raw):
    return raw.decode("utf-8", "replace")


async def asgi(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("only HTTP is served")
    body = b""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message.get("body", b"")
        more = message.get("more_body", False)
    query = b"?" + scope["query_string"] if scope["query_string"] else b""
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    say(scope["method"], text(scope["raw_path"] + query), scope["path"], text(b", ".join(hosts)), text(body))
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else b"ok"})


def wsgi(environ, start_response):
    body = environ["wsgi.input"].read()
    length = environ.get("CONTENT_LENGTH")
    if length and len(body) < int(length):
        raise OSError("the body has ended early")
    target = text(environ["RAW_URI"].encode("latin-1"))
    path = text(environ["PATH_INFO"].encode("latin-1"))
    say(environ["REQUEST_METHOD"], target, path, environ.get("HTTP_HOST", ""), text(body))
    start_response("200 OK", [("Content-Length", "2")])
    return [b"" if environ["REQUEST_METHOD"] == "HEAD" else b"ok"]
