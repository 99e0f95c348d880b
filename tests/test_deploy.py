"""The files of deploy/ against the code: metrics that dashboards and alerts name, flags, files and services."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from genrec.cli import commands
from genrec.inference.serve.config import ServeConfig
from genrec.inference.serve.metrics import ServeMetrics
from genrec.inference.store.command import StoreConfig

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
BOARD: dict[str, Any] = json.loads((DEPLOY / "grafana/dashboards/genrec.json").read_text())


def exposed() -> dict[str, set[str]]:
    """The server's metrics with their labels, by the page that Prometheus reads."""
    metrics = ServeMetrics()
    metrics.request("/v1/items", "GET", 200, 0.1)
    metrics.answer("store", stale=False)
    metrics.batch(2)
    page = bytes(metrics.page(None, 0, store_up=True).body).decode()
    found: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^(genrec_\w+)(?:\{(.*)\})? ", page, flags=re.MULTILINE):
        found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return found


def queries() -> Iterator[str]:
    """Of all panels and alerts."""
    for panel in BOARD["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    (group,) = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"]
    yield from (rule["expr"] for rule in group["rules"])


def test_queries_name_metrics_and_labels_that_the_server_has() -> None:
    there, asked = exposed(), set()
    for query in queries():
        names = set(re.findall(r"\bgenrec_\w+", query))
        assert names <= there.keys(), query
        asked |= names
        labels = {label.strip() for part in re.findall(r"by \((.*?)\)", query) for label in part.split(",")}
        labels |= set(re.findall(r"(\w+)=~?\"", query)) - {"job"}
        assert all(labels <= there[name] for name in names), query
        assert query.count("(") == query.count(")")
    stems = {re.sub(r"_(total|bucket|sum|count|created)$", "", name) for name in there}
    assert {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in asked} == stems  # each is watched


def test_the_board_is_one_that_grafana_takes() -> None:
    """Panels with ids of their own that do not overlap, a source that is provisioned, labels that are asked for."""
    panels = BOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 8
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        x, y, w, h = (panel["gridPos"][side] for side in "xywh")
        area = {(column, row) for column in range(x, x + w) for row in range(y, y + h)}
        assert x + w <= 24
        assert not area & cells, panel["title"]
        cells |= area
        for target in panel["targets"]:
            assert all(name in target["expr"] for name in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${source}"}
    (source,) = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    (variable,) = BOARD["templating"]["list"]
    assert (variable["name"], variable["query"], variable["current"]["value"]) == (
        "source",
        source["type"],
        source["uid"],
    )


def test_what_is_mounted_is_there() -> None:
    services = COMPOSE["services"]
    assert services.keys() == {"genrec", "redis", "prometheus", "grafana"}
    for name, service in services.items():
        for volume in service.get("volumes", ()):
            place, target = re.sub(r"\$\{[^}]*\}", "RUN", volume).split(":")[:2]
            assert place == "RUN" or place in COMPOSE["volumes"] or (DEPLOY / place).is_dir(), name
            assert target.startswith("/")
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert set(service.get("secrets", ())) <= COMPOSE["secrets"].keys()
        assert set(service.get("depends_on", ())) <= services.keys()
        assert "image" in service or (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    assert "ports" not in services["redis"]
    (provider,) = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/genrec.yml").read_text())["providers"]
    mounted = [volume.split(":") for volume in services["grafana"]["volumes"]]
    assert [where for where, target, *_ in mounted if target == provider["options"]["path"]] == ["./grafana/dashboards"]


def test_prometheus_reads_the_server_with_its_key() -> None:
    settings = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    (job,) = settings["scrape_configs"]
    (static,) = job["static_configs"]
    assert static["targets"] == ["genrec:8000"]
    assert job["metrics_path"] == "/metrics"
    (secret,) = COMPOSE["services"]["prometheus"]["secrets"]
    assert job["authorization"]["credentials_file"] == f"/run/secrets/{secret}"
    assert COMPOSE["secrets"][secret]["environment"] in COMPOSE["services"]["genrec"]["environment"]
    assert all((DEPLOY / "prometheus" / name).is_file() for name in settings["rule_files"])


def test_commands_are_ones_that_genrec_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the compose file, the container, the unit and the nightly script; the run is a folder that is one."""
    (tmp_path / "config.yaml").write_text("")
    said = [" ".join(COMPOSE["services"]["genrec"]["command"])]
    said += re.findall(r"^#   .*?genrec (genrec store .*)$", (DEPLOY / "compose.yaml").read_text(), flags=re.MULTILINE)
    (container,) = re.findall(r"^CMD (\[.*\])$", (DEPLOY / "Containerfile").read_text(), flags=re.MULTILINE)
    said.append(" ".join(json.loads(container)))
    said += re.findall(r"^ExecStart=.*/(genrec .*)$", (DEPLOY / "genrec.service").read_text(), flags=re.MULTILINE)
    assert len(said) == 4
    for line in said:
        _, verb, *rest = line.split()
        if verb == "serve":
            config = commands._parsed(ServeConfig, "serve", [str(tmp_path), *rest[1:]], {"run": "RUN"})
            assert (config.port, bool(config.store)) == (8000, True)
        else:
            places = {"verb": "VERB", "store": "STORE", "batch": "BATCH"}
            assert commands._parsed(StoreConfig, "store", rest, places).store.startswith("redis://")
