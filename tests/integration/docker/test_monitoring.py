"""Prometheus and Grafana ask for metrics that the server has."""

from __future__ import annotations

import re

import grafana_dashboard
import yaml
from docker_files import DOCKER
from grafana_dashboard import labels_in, metrics_in, panels

# tensorflow_serving/servables/tensorflow/util.cc, batching/batching_session.cc, batching/batching_util.h and
# tensorflow/core/framework/metrics.cc; the exporter writes ":" for "/" and adds a histogram's suffixes.
LABELS = {
    ":tensorflow:serving:request_count": {"model_name", "status"},
    ":tensorflow:serving:request_latency_bucket": {"model_name", "API", "entrypoint", "le"},
    ":tensorflow:serving:request_latency_sum": {"model_name", "API", "entrypoint"},
    ":tensorflow:serving:runtime_latency_bucket": {"model_name", "API", "runtime", "le"},
    ":tensorflow:serving:batching_session:queuing_latency_bucket": {"thread_pool_name", "le"},
    ":tensorflow:serving:batching_session:processed_batch_size_sum": set(),
    ":tensorflow:serving:batching_session:processed_batch_size_count": set(),
    ":tensorflow:serving:batching_session:input_batch_size_sum": set(),
    ":tensorflow:serving:batching_session:input_batch_size_count": set(),
    ":tensorflow:core:xla_compilations": {"device"},
    # envoy/envoy.yaml; tests/e2e/test_signature_metrics.py finds them in a real Envoy.
    "envoy_saliency_calls": {"signature", "status"},
    "envoy_saliency_latency_bucket": {"signature", "le"},
    "envoy_saliency_open_calls": {"signature"},
    # Of `saliency-client job --metrics`.
    "saliency_job_requests_in_flight": set(),
}


def queries() -> list[str]:
    found = grafana_dashboard.queries()
    for page in (DOCKER / "kubernetes").rglob("*.yaml"):
        found += re.findall(r"((?:sum|count)\(.*)", page.read_text())
    return found


def test_every_metric_and_label_is_the_servers_or_envoys():
    assert len(queries()) >= 18
    for query in queries():
        names = metrics_in(query)
        assert names, query
        assert names <= set(LABELS), query
        assert labels_in(query) <= set().union(*(LABELS[name] for name in names)), query


def test_parentheses_of_every_query_are_closed():
    for query in queries():
        assert query.count("(") == query.count(")"), query
        assert query.count("{") == query.count("}"), query


def test_the_dashboard_shows_requests_errors_latency_and_queue():
    titles = {panel["title"] for panel in panels()}
    assert {"Requests", "Errors", "Latency of requests", "Queue", "XLA compilations"} <= titles
    assert {"Calls by signature", "Errors by signature", "Latency by signature"} <= titles
    assert "Waiting or running, by signature" in titles


def test_panels_do_not_overlap():
    taken = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_the_dashboards_data_source_is_the_one_that_is_provisioned():
    provisioning = DOCKER / "monitoring" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert set(re.findall(r'"type": "prometheus",\s+"uid": "(\w+)"', grafana_dashboard.FILE.read_text())) == {
        source["uid"]
    }
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    assert source["url"].split("//")[1].split(":")[0] in services


def jobs() -> dict[str, dict]:
    page = yaml.safe_load((DOCKER / "monitoring" / "prometheus.yaml").read_text())
    return {job["job_name"]: job for job in page["scrape_configs"]}


def test_prometheus_finds_whichever_server_runs():
    (lookup,) = jobs()["tensorflow-serving"]["dns_sd_configs"]
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    servers = [
        service for service in services.values() if "model-available" in str(service.get("healthcheck"))
    ]
    assert len(servers) == 6
    for server in servers:
        assert set(server["networks"]["default"]["aliases"]) <= set(lookup["names"])
        assert f"--rest_api_port={lookup['port']}" in server["command"]


def test_prometheus_finds_envoy_at_the_port_that_shows_its_metrics_and_nothing_else():
    (lookup,) = jobs()["envoy"]["dns_sd_configs"]
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    assert set(lookup["names"]) <= set(services)
    assert "monitoring" in services["envoy"]["profiles"]
    envoy = yaml.safe_load((DOCKER / "envoy" / "envoy.yaml").read_text())
    (metrics,) = [one for one in envoy["static_resources"]["listeners"] if one["name"] == "metrics"]
    assert metrics["address"]["socket_address"]["port_value"] == lookup["port"]
    (manager,) = metrics["filter_chains"][0]["filters"]
    (host,) = manager["typed_config"]["route_config"]["virtual_hosts"]
    (route,) = host["routes"]
    assert route["match"]["path"] == jobs()["envoy"]["metrics_path"]
    (admin,) = [one for one in envoy["static_resources"]["clusters"] if one["name"] == "admin"]
    ((endpoint,),) = [one["lb_endpoints"] for one in admin["load_assignment"]["endpoints"]]
    assert endpoint["endpoint"]["address"] == envoy["admin"]["address"]
