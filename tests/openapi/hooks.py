"""What schemathesis sends otherwise than by chance."""

import uuid

import schemathesis


@schemathesis.hook
def map_headers(ctx, headers):
    """A key that was used before would have each write refused with 422, and nothing else be seen."""
    for name in list(headers or {}):
        if name.lower() == "idempotency-key" and headers[name].isprintable():
            headers[name] = str(uuid.uuid4())
    return headers
