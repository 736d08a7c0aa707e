"""What schemathesis sends otherwise than by chance."""

import re
import uuid

import schemathesis

KEY = re.compile("[!-~]{1,255}")


@schemathesis.hook
def before_call(ctx, case, kwargs):
    give_a_fresh_key(case.headers)
    if case.meta is not None and case.meta.generation.mode.is_positive and isinstance(case.body, dict):
        give_what_there_is(case.body)


def give_a_fresh_key(headers):
    """One that was used before would have each write refused with 422, and nothing else be seen."""
    for name in headers or {}:
        if name.lower() == "idempotency-key" and KEY.fullmatch(str(headers[name])):
            headers[name] = str(uuid.uuid4())


def give_what_there_is(body):
    """Which roles and groups there are, and what passwords must be like, is no matter of form."""
    for grant in body.get("roles") or []:
        grant.update(role="viewer", groups=["*"])
    if isinstance(body.get("password"), str):
        body["password"] = "long-enough-and-not-plain"
