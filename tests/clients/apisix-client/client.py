"""apisix-client against an Admin API: argument 1 is where it listens, argument 2 its key. Says `all well` if it was."""

import sys

import httpx
import jsonschema
from apisix_client import ApisixClient
from apisix_client.consumer import Consumer
from apisix_client.plugin.models import KeyAuth, LimitCount
from apisix_client.route.models import Route
from apisix_client.service.models import Service
from apisix_client.upstream.models import Node, Upstream

url, key = sys.argv[1:]
client = ApisixClient(base_url=f"{url}/", api_key=key)


def upstreams() -> str:
    node = Node(host="127.0.0.1", weight=1, port=1980)
    made = client.upstream.create_with_id_generation(Upstream(name="made", nodes=[node]))
    assert len(made) == 20 and made.isdigit(), made
    assert client.upstream.create_or_update(Upstream(name="own", nodes=[node]), "own") == "own"
    read = client.upstream.get("own")
    assert (read.key, read.value.name, read.value.nodes) == ("/apisix/upstreams/own", "own", [node]), read
    assert read.modified_index >= read.created_index > 0 and read.value.create_time.year > 2020, read
    assert client.upstream.count() == 2 and client.upstream.delete("own") == 1
    assert client.upstream.delete("own") == 0 and client.upstream.get("own") is None
    return made


def routes(upstream: str) -> None:
    service = client.service.create_with_id_generation(Service(name="s", upstream_id=upstream))
    # What has plugins the client can write, and not read.
    limit = LimitCount(count=2, time_window=60, key="remote_addr")
    assert client.route.create_or_update(Route(name="r", uri="/a", service_id=service, plugins=[limit]), "r") == "r"
    assert client.route.create_or_update(Route(name="r", uri="/a", service_id=service), "r") == "r"
    assert client.route.get("r").value.uri == "/a"
    assert client.route.create_or_update(Route(uri="/b", upstream_id="nobody"), "x") is None
    # Deleting what is in use is refused, in words and not by an exception.
    assert "error_msg" in client.service._httpx_client.delete(f"/services/{service}").json()
    for number in range(11):
        assert client.route.create_with_id_generation(Route(name=f"n{number}", uri=f"/{number}", service_id=service))
    assert [len(client.route.get_all(page)) for page in [(1, 10), (2, 10), (3, 10)]] == [10, 2, 0]
    assert len(client.route.get_all()) == client.route.count() == 12
    assert client.route.delete("r") and not client.route.delete("r")


def consumers() -> None:
    assert client.consumer.create_or_update(Consumer(username="jack", plugins=[KeyAuth(key="k")]))
    assert not client.consumer.create_or_update(Consumer(username="zoe", plugins=[KeyAuth(key="k")]))
    assert client.consumer.create_or_update(Consumer(username="zoe"))
    assert client.consumer.get("zoe").value.username == "zoe" and client.consumer.count() == 2
    assert client.consumer.delete("jack") == 1 and client.consumer.delete("zoe") == 1


def schemas() -> None:
    """Every schema is one for the validators that form generators are built on, and validates what the API takes."""
    admin = httpx.Client(base_url=f"{url}/apisix/admin", headers={"X-API-KEY": key})
    kinds = ["route", "service", "upstream", "consumer", "credential", "consumer_group", "ssl", "proto", "global_rule"]
    kinds += ["plugin_config", "stream_route", "plugins", "graphql_cost_decoration", "id_schema", "host_def"]
    served = {kind: admin.get(f"/schema/{kind}").json() for kind in kinds}
    for name, plugin in admin.get("/plugins", params={"all": "true"}).json().items():
        forms = ["schema", "consumer_schema", "metadata_schema"]
        served |= {f"{form} of {name}": plugin[form] for form in forms if form in plugin}
    assert len(served) > len(kinds) + 10, list(served)
    for name, schema in served.items():
        try:
            jsonschema.Draft7Validator.check_schema(schema)
        except jsonschema.SchemaError as error:
            raise AssertionError(f"{name}: {error.message} at {list(error.path)}") from error
    for route in admin.get("/routes").json()["list"]:
        jsonschema.Draft7Validator(served["route"]).validate(route["value"])


assert client.plugin.reload() and "limit-count" in client.plugin.get_available()
routes(upstreams())
consumers()
schemas()
print("all well")
