"""What docs/rollout-interop.md shows is what the judge takes, and what the real tests use."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tidemill.controller.answers import FLAGGER
from tidemill.controller.questions import read_body, read_flagger
from tidemill.settings.rollout import AnalysisSettings

PAGE = (Path(__file__).parents[2] / "docs/rollout-interop.md").read_text()
BLOCKS: list[dict[str, Any]] = [
    yaml.safe_load(text) for text in re.findall(r"^```yml\n(.*?)^```", PAGE, re.M | re.S)
]
TEMPLATE, STRATEGY, ANALYSIS = BLOCKS
METRICS = {metric.name for metric in AnalysisSettings().metrics}


def test_argos_question_is_one_once_its_arguments_are_put_in():
    (metric,) = TEMPLATE["spec"]["metrics"]
    web = metric["provider"]["web"]
    given = {arg["name"] for arg in TEMPLATE["spec"]["args"]}
    asked = json.dumps(web["jsonBody"])
    assert set(re.findall(r"{{args\.([\w-]+)}}", asked)) == given
    for name, value in (("canary-hash", "7f9c"), ("weight", "20")):
        asked = asked.replace(f"{{{{args.{name}}}}}", value)
    question = read_body(asked.encode()).question
    assert (question.attempt, question.weight) == ("ml/churn/7f9c", 2000)
    assert set(question.gate) <= METRICS
    assert web["url"].endswith("/v1/judge")
    words = re.findall(r'== "(\w+)"', metric["successCondition"] + metric["failureCondition"])
    assert words == ["pass", "harm"]


def test_argos_step_gives_what_the_template_asks_for():
    weight, step = STRATEGY["strategy"]["canary"]["steps"]
    arguments = {arg["name"]: arg for arg in step["analysis"]["args"]}
    assert arguments.keys() == {arg["name"] for arg in TEMPLATE["spec"]["args"]}
    assert arguments["weight"]["value"] == str(weight["setWeight"])


@pytest.mark.parametrize("hook", ANALYSIS["analysis"]["webhooks"], ids=lambda h: h["type"])
def test_flaggers_webhooks_are_questions(hook):
    assert hook["url"].endswith(f"/v1/flagger/{hook['type']}")
    payload = {"name": "churn", "namespace": "ml", "checksum": "1", "metadata": hook["metadata"]}
    asked = read_flagger(json.dumps(payload).encode(), lambda *_: 20.0)
    assert set(asked.gate) <= METRICS


def test_flaggers_webhooks_are_all_that_there_are():
    assert {hook["type"] for hook in ANALYSIS["analysis"]["webhooks"]} == set(FLAGGER)
