"""Prometheus' rules and Grafana's dashboard, against a real server and, where it is installed, a real Prometheus."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.docker.queries import OF_GROUPS, SUFFIXES, metrics_in
from tests.patience import PATIENCE
from tests.service.harness import ROOT, Server, encode, picture, until

MONITORING = ROOT / "docker" / "monitoring"
DASHBOARD = json.loads((MONITORING / "grafana" / "dashboards" / "maskserve.json").read_text())
RULES = [rule for group in yaml.safe_load((MONITORING / "rules.yml").read_text())["groups"] for rule in group["rules"]]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
OF_PROMETHEUS = {"up", "ALERTS"}
# Nothing of it happened, or can: no GPU, no reload, one process.
EMPTY = {
    *("Runs that failed", "Versions loaded while serving", "Memory of the GPUs", "Computed again in float32 (GPU)"),
    "Processes of a group, and how often one died",
}

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="monitoring needs prometheus and promtool (Debian: apt-get install prometheus)",
)


def expressions() -> Iterator[tuple[str, str]]:
    """Every query with where it stands; Grafana's variable is filled in."""
    for rule in RULES:
        yield rule.get("alert") or rule["record"], rule["expr"]
    for panel in PANELS:
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$__rate_interval", "1m")
    for annotation in DASHBOARD["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]


def exposed(server: Server) -> set[str]:
    """The names of all series that the server can have."""
    families = text_string_to_metric_families(server.client.get("/metrics").text)
    return {family.name + suffix for family in families for suffix in SUFFIXES.get(family.type, ("",))}


def test_every_metric_that_rules_and_dashboard_name_exists(server: Server) -> None:
    known = exposed(server) | {rule["record"] for rule in RULES if "record" in rule} | OF_PROMETHEUS | OF_GROUPS
    named = {name for _, expression in expressions() for name in metrics_in(expression)}
    assert named <= known
    assert sum(name.startswith("maskserve_") for name in named) > 15, "the queries were not understood"


def test_the_dashboard_shows_every_metric_of_the_service(server: Server) -> None:
    named = {name for _, expression in expressions() for name in metrics_in(expression)}
    families = {
        family.name for family in text_string_to_metric_families(server.client.get("/metrics").text)
    } | OF_GROUPS
    missing = {family for family in families if not any(name.startswith(family) for name in named)}
    assert {family for family in missing if family.startswith("maskserve_")} == set()


def test_there_is_an_alert_for_each_way_to_fail() -> None:
    alerts = {rule["alert"]: rule for rule in RULES if "alert" in rule}
    assert set(alerts) == {
        "MaskserveDown",
        "MaskserveNoModel",
        "MaskserveOverload",
        "MaskserveErrors",
        "MaskserveSlow",
        "MaskserveDeviceLost",
        "MaskserveEngineStalled",
        "MaskserveProcessDied",
        "MaskserveDetectionsDrift",
        "MaskserveScoresDrift",
    }
    tests = yaml.safe_load((MONITORING / "rules.test.yml").read_text())["tests"]
    cases = [case for test in tests for case in test.get("alert_rule_test", ())]
    for name, rule in alerts.items():
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"]["summary"]
        fires = {"exp_alerts" in case for case in cases if case["alertname"] == name}
        assert fires == {True, False}, f"{name} is not tested both firing and silent"


def test_grafana_finds_its_datasource_and_its_dashboard() -> None:
    provisioning = MONITORING / "grafana" / "provisioning"
    (datasource,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "maskserve.yml").read_text())["providers"]
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    grafana = services["grafana"]
    mounts = dict(volume.removesuffix(":ro").split(":") for volume in grafana["volumes"])
    assert mounts["./docker/monitoring/grafana/dashboards"] == provider["options"]["path"]
    assert grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"].startswith(provider["options"]["path"])
    assert datasource["url"] == "http://prometheus:9090"
    used = [panel["datasource"] for panel in PANELS]
    used += [target["datasource"] for panel in PANELS for target in panel["targets"]]
    used += [annotation["datasource"] for annotation in DASHBOARD["annotations"]["list"]]
    assert all(one == {"type": datasource["type"], "uid": datasource["uid"]} for one in used)


def test_the_dashboards_panels_lie_side_by_side() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    assert {target["refId"] for panel in PANELS for target in panel["targets"]} <= set("ABC")


@needs_prometheus
@pytest.mark.parametrize(
    "command",
    [["check", "rules", "rules.yml"], ["check", "config", "prometheus.yml"], ["test", "rules", "rules.test.yml"]],
    ids=" ".join,
)
def test_promtool_finds_nothing_wrong(command: list[str]) -> None:
    done = subprocess.run(["promtool", *command], cwd=MONITORING, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr


@dataclass
class Prometheus:
    """A process that scrapes a server with the repository's own configuration and rules, only more often."""

    url: str

    def get(self, path: str, **parameters: str) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=PATIENCE)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def query(self, expression: str) -> list[Any]:
        result = self.get("query", query=expression)["result"]
        assert isinstance(result, list)
        return result


@pytest.fixture(scope="module")
def prometheus(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    folder: Path = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"}
    (scrape,) = config["scrape_configs"]
    assert scrape["static_configs"] == [{"targets": ["serve:8000"]}]
    scrape["static_configs"] = [{"targets": [server.url.removeprefix("http://")]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(MONITORING / "rules.yml", folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    log = (folder / "log").open("w")
    process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
    prometheus = Prometheus(f"http://{address}")

    def scraped_and_evaluated() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        try:
            if httpx.get(f"{prometheus.url}/-/ready", timeout=PATIENCE).status_code != 200:
                return False
        except httpx.TransportError:
            return False
        assert server.predict(encode(picture(1))).status_code == 200  # a counter that stands still has no rate
        return bool(prometheus.query("count_over_time(maskserve:detections_per_image:mean1h[1h]) > 2"))

    try:
        until(scraped_and_evaluated)
        yield prometheus
    finally:
        process.terminate()
        process.wait(20)
        log.close()


@needs_prometheus
def test_a_real_prometheus_scrapes_the_real_server(prometheus: Prometheus) -> None:
    (target,) = prometheus.get("targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    assert target["labels"]["job"] == "maskserve"
    (sample,) = prometheus.query('maskserve_requests_total{route="/predict", status="200"}')
    assert float(sample["value"][1]) > 1


@needs_prometheus
def test_prometheus_evaluates_every_rule(prometheus: Prometheus) -> None:
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert len(rules) == len(RULES)
    assert {rule["name"]: rule.get("lastError", "") for rule in rules if rule["health"] != "ok"} == {}
    recorded = [rule["record"] for rule in RULES if "record" in rule]
    assert all(prometheus.query(name) for name in recorded)


@needs_prometheus
def test_every_panel_has_something_to_show(prometheus: Prometheus) -> None:
    empty = set()
    for panel in PANELS:
        for target in panel["targets"]:
            if not prometheus.query(target["expr"].replace("$__rate_interval", "1m")):
                empty.add(panel["title"])
    assert empty == EMPTY
    for annotation in DASHBOARD["annotations"]["list"]:
        prometheus.query(annotation["expr"])
