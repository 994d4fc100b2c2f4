"""Prometheus and Grafana ask for metrics that the server has."""

from __future__ import annotations

import json
import re

import yaml
from docker_files import DOCKER, dashboard

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
}


def queries() -> list[str]:
    found = [target["expr"] for panel in json.loads(dashboard())["panels"] for target in panel["targets"]]
    for page in (DOCKER / "kubernetes").rglob("*.yaml"):
        found += re.findall(r"(sum\(rate\(.*)", page.read_text())
    return found


def test_every_metric_and_label_is_the_servers():
    assert len(queries()) >= 10
    for query in queries():
        names = re.findall(r":tensorflow:[\w:]+", query)
        assert names, query
        for name in names:
            assert name in LABELS, name
        known = set().union(*(LABELS[name] for name in names))
        used = set(re.findall(r"(\w+)!?=~?\"", query))
        for group in re.findall(r"by \(([^)]*)\)", query):
            used |= {label.strip() for label in group.split(",")}
        assert used <= known, query


def test_parentheses_of_every_query_are_closed():
    for query in queries():
        assert query.count("(") == query.count(")"), query
        assert query.count("{") == query.count("}"), query


def test_the_dashboard_shows_requests_errors_latency_and_queue():
    titles = {panel["title"] for panel in json.loads(dashboard())["panels"]}
    assert {"Requests", "Errors", "Latency of requests", "Queue", "XLA compilations"} <= titles


def test_panels_do_not_overlap():
    taken = set()
    for panel in json.loads(dashboard())["panels"]:
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
    assert set(re.findall(r'"type": "prometheus",\s+"uid": "(\w+)"', dashboard())) == {source["uid"]}
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    assert source["url"].split("//")[1].split(":")[0] in services


def test_prometheus_finds_whichever_server_runs():
    (job,) = yaml.safe_load((DOCKER / "monitoring" / "prometheus.yaml").read_text())["scrape_configs"]
    (lookup,) = job["dns_sd_configs"]
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    servers = [
        service for service in services.values() if "model-available" in str(service.get("healthcheck"))
    ]
    assert len(servers) == 5
    for server in servers:
        assert set(server["networks"]["default"]["aliases"]) <= set(lookup["names"])
        assert f"--rest_api_port={lookup['port']}" in server["command"]
