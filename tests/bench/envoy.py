"""Envoy as the peer: one worker, keep-alive on both sides, no access log.

`config` gives its bootstrap, which is written as JSON. What is asked of it is what nginx.conf and haproxy.cfg ask of
theirs; the thousand routes are a prefix tree (`matcher_tree`), since a list of routes is looked through one by one.
"""
TYPE = "type.googleapis.com/envoy."
MANAGER = "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
HOUR = "3600s"
LIMIT = 1_000_000  # requests a second: more than any run makes


def typed(name, kind, **fields):
    return {"name": name, "typed_config": {"@type": TYPE + kind, **fields}}


def address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def listener(name, port, routes, filters=(), codec="AUTO", tls=None):
    router = typed("envoy.filters.http.router", "extensions.filters.http.router.v3.Router", suppress_envoy_headers=True)
    manager = typed(
        "envoy.filters.network.http_connection_manager", MANAGER, stat_prefix=name, codec_type=codec,
        use_remote_address=True, generate_request_id=name == "gateway", always_set_request_id_in_response=name == "gateway",
        preserve_external_request_id=False, stream_idle_timeout="0s",
        common_http_protocol_options={"idle_timeout": HOUR}, http2_protocol_options={"max_concurrent_streams": 256},
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], **routes}]}, http_filters=[*filters, router])
    chain = {"filters": [manager]}
    if tls:
        chain["transport_socket"] = tls
    return {"name": name, "address": address(port), "enable_reuse_port": True, "tcp_backlog_size": 4096,
            "filter_chains": [chain]}


def to(cluster):
    return {"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}}


def gateway_routes(count):
    action = {"name": "route", "typed_config": {"@type": TYPE + "config.route.v3.Route", **to("origin")}}
    path = typed("path", "type.matcher.v3.HttpRequestHeaderMatchInput", header_name=":path")
    tree = {"input": path, "prefix_match_map": {"map": {f"/api/svc{n}/": {"action": action} for n in range(count)}}}
    return {"matcher": {"matcher_tree": tree}}


def gateway_filters(consumers):
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    bucket = {"max_tokens": LIMIT, "tokens_per_fill": LIMIT, "fill_interval": "1s"}
    consumer = {"request_headers": {"header_name": "X-Consumer", "descriptor_key": "consumer"}}
    keys = [{"key": f"key-{n}", "client": f"consumer-{n}"} for n in range(consumers)]
    return [
        typed("envoy.filters.http.api_key_auth", "extensions.filters.http.api_key_auth.v3.ApiKeyAuth",
              credentials=keys, key_sources=[{"header": "apikey"}], forwarding={"header": "X-Consumer"}),
        # A bucket for each consumer, named by the header that key authentication sets: a descriptor without a value
        # stands for all of them.
        typed("envoy.filters.http.local_ratelimit", "extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
              stat_prefix="consumers", filter_enabled=always, filter_enforced=always,
              token_bucket=bucket, rate_limits=[{"actions": [consumer]}], max_dynamic_descriptors=10_000,
              descriptors=[{"entries": [{"key": "consumer"}], "token_bucket": bucket}]),
    ]


def cluster(name, port, http2=False):
    protocol = {"explicit_http_config": {"http2_protocol_options" if http2 else "http_protocol_options": {}},
                "common_http_protocol_options": {"idle_timeout": HOUR}}
    many = {"thresholds": [{"max_connections": 4096, "max_pending_requests": 4096, "max_requests": 4096}]}
    endpoint = {"endpoint": {"address": address(port)}}
    return {"name": name, "type": "STATIC", "connect_timeout": "5s", "circuit_breakers": many,
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": TYPE + "extensions.upstreams.http.v3.HttpProtocolOptions", **protocol}}}


def config(run, routes, consumers):
    """The bootstrap for the files of this run: `routes` routes and `consumers` consumers in `gateway`."""
    pair = {"certificate_chain": {"filename": str(run / "cert.pem")}, "private_key": {"filename": str(run / "key.pem")}}
    tls = typed("envoy.transport_sockets.tls", "extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                # Full handshakes only: neither tickets nor a cache of sessions.
                disable_stateless_session_resumption=True, disable_stateful_session_resumption=True,
                common_tls_context={"tls_certificates": [pair], "alpn_protocols": ["h2", "http/1.1"],
                                    "tls_params": {"tls_minimum_protocol_version": "TLSv1_2",
                                                   "tls_maximum_protocol_version": "TLSv1_3"}})
    plain = {"routes": [to("origin")]}
    return {"static_resources": {
        "listeners": [
            listener("http", 19401, plain),
            listener("https", 19402, plain, tls=tls),
            listener("gateway", 19403, gateway_routes(routes), gateway_filters(consumers)),
            listener("grpc", 19404, {"routes": [to("grpc_origin")]}, codec="HTTP2"),
        ],
        "clusters": [cluster("origin", 19000), cluster("grpc_origin", 19001, http2=True)],
    }}
