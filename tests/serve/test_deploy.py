"""What operators are given: the dashboard asks for figures that there are; unit and container file are whole."""

from __future__ import annotations

import configparser
import json
import re

import pytest
from starlette.testclient import TestClient

from balcony_edge.serve.metrics import SIGNALS
from helpers.places import ROOT

DEPLOY = ROOT / "docs" / "deploy"
pytestmark = pytest.mark.skipif(not DEPLOY.exists(), reason="the docs are not part of the wheel")


def test_the_dashboard_asks_for_what_is_counted(client: TestClient) -> None:
    client.post("/v1/completions", json={"prompt": "Once", "max_tokens": 4, "budget": "1ms"})
    client.put("/v1/budget", json={"budget": "5ms"})
    text = client.get("/metrics").text
    client.put("/v1/budget", json={"budget": "full"})
    counted = set(re.findall(r"^(balcony_\w+)", text, re.MULTILINE)) | {f"balcony_{name}" for name in SIGNALS}
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"balcony_\w+", target["expr"])
    }
    assert len(asked) > 15
    assert asked <= counted
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_counts_are_right(client: TestClient) -> None:
    before = figures(client)
    client.post("/v1/completions", json={"prompt": "Once upon", "max_tokens": 7, "n": 2})
    after = figures(client)
    assert after["balcony_tokens_total"] - before.get("balcony_tokens_total", 0.0) == 14
    assert after["balcony_replies_total"] - before.get("balcony_replies_total", 0.0) == 2
    assert "balcony_power_w" not in after, "unknown, and not 0"


def figures(client: TestClient) -> dict[str, float]:
    """The figures by name, added up over their labels."""
    found: dict[str, float] = {}
    for line in client.get("/metrics").text.splitlines():
        if not line.startswith("#"):
            name, _, value = (
                line.partition(" ") if "{" not in line else (line[: line.index("{")], "", line.rsplit(" ")[-1])
            )
            found[name] = found.get(name, 0.0) + float(value)
    return found


def test_the_unit_serves_this_machine_alone() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None, comment_prefixes="#")
    unit.optionxform = str  # type: ignore[method-assign,assignment]
    unit.read(DEPLOY / "balcony-edge.service")
    assert "balcony-edge serve" in unit["Service"]["ExecStart"]
    assert "--host" not in unit["Service"]["ExecStart"]
    assert unit["Service"]["NoNewPrivileges"] == "yes"
    assert unit["Install"]["WantedBy"] == "multi-user.target"


def test_the_container_runs_without_root() -> None:
    lines = [line for line in (DEPLOY / "Containerfile").read_text().splitlines() if not line.startswith("#")]
    words = [line.split()[0] for line in lines if line and not line.startswith(" ")]
    assert words.index("USER") < words.index("ENTRYPOINT")
    assert {"FROM", "COPY", "RUN", "HEALTHCHECK"} <= set(words)
