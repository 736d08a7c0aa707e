"""mcp-apisix against an Admin API: argument 1 is where it listens, argument 2 its key. Says `all well` if it was."""

import asyncio
import os
import sys

os.environ["APISIX_BASE_URL"], os.environ["APISIX_ADMIN_KEY"] = sys.argv[1:]

from mcp_apisix.clients.admin import ApisixAdminClient  # noqa: E402 reads the environment


async def main() -> None:
    client = ApisixAdminClient()
    info = await client.get_server_info()
    assert info["response_format"] == "v3" and info["detected"], info
    plugins = await client.list_plugins()
    assert "limit-count" in plugins and len(plugins) > 5, plugins
    for plugin in plugins:
        assert (await client.get_plugin_schema(plugin))["type"] == "object", plugin
    good = {"uri": "/mcp", "name": "mcp", "upstream": {"nodes": {"127.0.0.1:1980": 1}}}
    assert await client.validate_resource_config("routes", good) == {"valid": True}
    bad = await client.validate_resource_config("routes", {"uri": 1})
    assert not bad["valid"] and "wrong type" in bad["error_msg"], bad
    made = (await client.create_resource("routes", good))["id"]
    patched = await client.update_resource("routes", made, {"desc": "patched"})
    assert (patched["value"]["desc"], patched["value"]["uri"]) == ("patched", "/mcp"), patched
    assert (await client.toggle_route(made, False))["value"]["status"] == 0
    assert (await client.get_resource("routes", made))["value"]["status"] == 0
    listed = await client.list_resources("routes", page_size=10, filters={"name": "^mcp$"})
    assert listed["total"] == 1, listed
    assert "notice" in await client.list_resources("stream_routes")
    for resource in ["services", "upstreams", "consumers", "global_rules", "plugin_configs"]:
        assert "list" in await client.list_resources(resource, page_size=10), resource
    await client.aclose()


asyncio.run(main())
print("all well")
