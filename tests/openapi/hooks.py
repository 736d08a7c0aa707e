"""What schemathesis sends otherwise than by chance."""

import collections
import os
import re
import uuid

import schemathesis
from schemathesis.core.parameters import ParameterLocation

LONG_FORM = "MILECASTLE_TEST_FULL" in os.environ
# Of the cases that follow from an operation's schema, alike in their hundreds, the short form sends the first and then each of so many.
FIRST, EACH = 12, 16

KEY = re.compile("[!-~]{1,255}")
GROUP = re.compile("[A-Za-z0-9._-]{1,64}")
TAG = '((W/)?"[!#-~]*"|[0-9]{1,15})'
VERSION = re.compile(f'{TAG}([ \\t]*,[ \\t]*{TAG})*')

CHARTS = ("/api/metrics", "/api/metrics/routes")

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
    give_what_is_expected(case.headers)
    give_a_group(case)
    ask_for_no_stream(case)
    if case.meta is None:
        return
    if isinstance(case.body, (dict, list)):
        case.body = written_whole(case.body)
    body = case.body if isinstance(case.body, dict) else {}
    of_body = case.meta.components.get(ParameterLocation.BODY)
    if case.meta.generation.mode.is_positive:
        give_what_there_is(body)
        give_a_kind(case)
        give_a_step(case)
    elif case.path in ("/api/availability", *CHARTS):
        give_what_is_no_word(case.query or {})
    elif of_body is not None and of_body.mode.is_negative:
        give_another_flaw(case.path, body)


def written_whole(value):
    """2.0 is a whole number to a schema, and to few parsers of JSON."""
    if isinstance(value, dict):
        return {name: written_whole(member) for name, member in value.items()}
    if isinstance(value, list):
        return [written_whole(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def give_what_is_expected(headers):
    """A key that was used before would have each write refused with 422, a version that is not the newest one with 412, and nothing
    else be seen."""
    for name, value in (headers or {}).items():
        if name.lower() == "idempotency-key" and KEY.fullmatch(str(value)):
            headers[name] = str(uuid.uuid4())
        if name.lower() == "if-match" and VERSION.fullmatch(str(value)):
            headers[name] = "*"


def give_a_group(case):
    """In one that is not there each request would be answered with 404, and nothing else be seen."""
    if case.path == "/api/gateway_groups/{group}" and case.method == "DELETE":
        return
    for arguments, name in [(case.path_parameters, "group"), (case.query, "from"), (case.query, "gateway_group_id")]:
        if arguments and isinstance(arguments.get(name), str) and GROUP.fullmatch(arguments[name]):
            arguments[name] = "default"


def ask_for_no_stream(case):
    """A stream has no end: it would be waited for until it is given up, and what is given up is not judged."""
    if case.path == "/api/events" and case.query and str(case.query.get("follow")).lower() == "true":
        case.query["follow"] = "false"


def give_what_there_is(body):
    """Which roles, groups, plugins and registries there are, and what passwords must be like, is no matter of form."""
    for grant in body.get("roles") or []:
        grant.update(role="viewer", groups=["*"])
    if isinstance(body.get("password"), str):
        body["password"] = "long-enough-and-not-plain"
    for plugins in ("plugins", "stream_plugins"):
        if isinstance(body.get(plugins), list):
            body[plugins] = []
    if isinstance(body.get("discovery"), dict):
        body["discovery"] = {}


def give_a_kind(case):
    """Shared definitions have names of their own there, beside those of kinds."""
    if case.path == "/apisix/admin/schema/{kind}":
        case.path_parameters["kind"] = "route"


def give_a_step(case):
    """Which steps a chart can have depends on its window; this one goes with each."""
    if case.path in CHARTS and "step" in (case.query or {}):
        case.query["step"] = 300


def give_another_flaw(path, body):
    """An empty list passes for an empty object, and the other way round (docs/spec/admin-api.md §16)."""
    if path.startswith("/apisix/admin") or path.endswith("/settings"):
        body.update({name: 0 for name, value in body.items() if value in ([], {})})


def give_what_is_no_word(query):
    """An argument that is empty passes for one that is not given."""
    query.update({name: "?" for name, value in query.items() if value == ""})
