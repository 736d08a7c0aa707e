"""apisix-python-client against an Admin API: argument 1 is where it listens, argument 2 its key. Says `all well` if it was.

Its lists read a format of answers that is not served, and are left out.
"""

import sys

from apisix_client import ApisixClient

url, key = sys.argv[1:]
client = ApisixClient(f"{url}/apisix/admin/", key)

made = client.create_upstream({"nodes": {"127.0.0.1:1980": 1}, "type": "roundrobin"})["value"]["id"]
assert client.get_upstream(made)["value"]["nodes"] == {"127.0.0.1:1980": 1}
route = client.create_route({"uri": "/python", "upstream_id": made})["value"]["id"]
updated = client.update_route(route, {"uri": "/python/*", "upstream_id": made, "methods": ["GET"]})
assert updated["value"]["methods"] == ["GET"], updated
client.update_consumer("python", {"username": "python", "plugins": {"key-auth": {"key": "python"}}})
assert client.get_consumer("python")["value"]["plugins"]["key-auth"]["key"] == "python"
for refused in [
    lambda: client.create_consumer({"username": "other"}),
    lambda: client.delete_upstream(made),
    lambda: client.get_route("nobody"),
    lambda: ApisixClient(f"{url}/apisix/admin", "wrong").get_route(route),
]:
    try:
        refused()
    except ConnectionError:
        continue
    raise AssertionError("that should have been refused")
assert client.delete_consumer("python")["deleted"] == "1"
assert client.delete_route(route)["deleted"] == "1" and client.delete_upstream(made)["deleted"] == "1"
print("all well")
