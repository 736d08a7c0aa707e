"""What schemathesis sends otherwise than by chance."""

import collections
import os
import re
import uuid

import schemathesis
from schemathesis.core.parameters import ParameterLocation

LONG_FORM = "MILECASTLE_TEST_FULL" in os.environ
# Of the cases that follow from an operation's schema, alike in their hundreds, the short form sends the first and then each of so many.
FIRST, EACH = 16, 10

KEY = re.compile("[!-~]{1,255}")

made = collections.Counter()


@schemathesis.hook
def filter_case(ctx, case):
    if LONG_FORM or case.meta is None or case.meta.phase.name != "coverage":
        return True
    alike = (case.operation.label, case.meta.generation.mode)
    made[alike] += 1
    return made[alike] <= FIRST or made[alike] % EACH == 0


@schemathesis.hook
def before_call(ctx, case, kwargs):
    give_a_fresh_key(case.headers)
    ask_for_no_stream(case)
    if case.meta is None:
        return
    body = case.body if isinstance(case.body, dict) else {}
    of_body = case.meta.components.get(ParameterLocation.BODY)
    if case.meta.generation.mode.is_positive:
        give_what_there_is(body)
        give_a_kind(case)
    elif of_body is not None and of_body.mode.is_negative and case.path.startswith("/apisix/admin"):
        give_another_flaw(body)


def give_a_fresh_key(headers):
    """One that was used before would have each write refused with 422, and nothing else be seen."""
    for name in headers or {}:
        if name.lower() == "idempotency-key" and KEY.fullmatch(str(headers[name])):
            headers[name] = str(uuid.uuid4())


def ask_for_no_stream(case):
    """A stream has no end: it would be waited for until it is given up, and what is given up is not judged."""
    if case.path == "/api/events" and case.query and str(case.query.get("follow")).lower() == "true":
        case.query["follow"] = "false"


def give_what_there_is(body):
    """Which roles and groups there are, and what passwords must be like, is no matter of form."""
    for grant in body.get("roles") or []:
        grant.update(role="viewer", groups=["*"])
    if isinstance(body.get("password"), str):
        body["password"] = "long-enough-and-not-plain"


def give_a_kind(case):
    """Shared definitions have names of their own there, beside those of kinds."""
    if case.path == "/apisix/admin/schema/{kind}":
        case.path_parameters["kind"] = "route"


def give_another_flaw(body):
    """An empty list passes for an empty object, and the other way round (docs/spec/admin-api.md §16)."""
    body.update({name: 0 for name, value in body.items() if value in ([], {})})
