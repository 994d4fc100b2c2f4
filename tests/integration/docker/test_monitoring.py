"""Prometheus and Grafana ask for metrics that the server has."""

from __future__ import annotations

import re

import grafana_dashboard
import numpy as np
import pytest
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
    ":tensorflow:serving:batching_session:queuing_latency_sum": {"thread_pool_name"},
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


def test_kedas_queue_is_the_mean_number_of_requests_that_wait():
    """Two scrapes of servers whose queues are played through, against the depth counted at many moments."""
    (page,) = (DOCKER / "kubernetes" / "base").glob("scaled-object.yaml")
    (queue,) = [one for one in yaml.safe_load(page.read_text())["spec"]["triggers"] if one["name"] == "queue"]
    asked = re.fullmatch(r"sum\(rate\((\S+)\[2m\]\)\) / (\S+)", queue["metadata"]["query"])
    assert asked[1] == ":tensorflow:serving:batching_session:queuing_latency_sum"
    rng = np.random.default_rng(5)
    counted = queried = 0.0
    for replica in range(3):
        # One batch of four at a time, 30 ms; a request every 10, 8 and 7.9 ms, so some wait.
        arrivals = np.cumsum(rng.exponential((10e-3, 8e-3, 7.9e-3)[replica], size=40_000))
        leaves, free = np.empty_like(arrivals), 0.0
        for first in range(0, len(arrivals), 4):
            free = max(free, arrivals[min(first + 3, len(arrivals) - 1)])
            leaves[first : first + 4] = free
            free += 30e-3
        # As batching_session.cc: a request's wait in microseconds, when it leaves its queue.
        scrapes = arrivals[-1] * 0.5, arrivals[-1] * 0.5 + 120
        before, after = (np.sum((leaves - arrivals)[leaves <= scrape]) * 1e6 for scrape in scrapes)
        queried += (after - before) / 120 / float(asked[2])
        moments = np.linspace(*scrapes, 50_000)
        counted += np.mean(np.searchsorted(arrivals, moments) - np.searchsorted(leaves, moments))
    assert counted > 5
    # Requests on the edges of the two minutes count whole: their waits are no more than a second of 120.
    assert queried == pytest.approx(counted, rel=0.02)
