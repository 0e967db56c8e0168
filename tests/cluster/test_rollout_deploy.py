"""The pipelines' `deploy` step starts a rollout on a cluster and follows it to its end."""

from __future__ import annotations

import pytest
import yaml
from components.deploy import deploy
from tests.cluster.rollout_plane import PlayedPlane
from tests.cluster.test_rollout_controller import account, running, stable
from tests.cluster.test_rollout_verbs import deployer, project
from tests.unit.rollout_world import NAME

from tidemill.errors import Refused, Timeout
from tidemill.wiring import Project

__all__ = ["account", "deployer", "project"]

pytestmark = pytest.mark.usefixtures("controllers")

QUICK = {
    "steps": [
        {"name": "c10", "weight": 1000, "min_events": 300},
        {"name": "c50", "weight": 5000, "gate": ["errors"], "min_events": 500},
    ],
    "settle_seconds": 0,
    "scale_down_seconds": 1,
}


@pytest.fixture
def config(project, tmp_path) -> str:
    """What a step gets: the path of the resolved settings."""
    path = project.root / "configs/base.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["rollout"] |= QUICK
    settings["rollout"]["kubernetes"] |= {"replicas": 1, "bundles_claim": "bundles"}
    path.write_text(yaml.safe_dump(settings))
    return str(Project.load(project.root).save(tmp_path / "config.json"))


@pytest.mark.slow
def test_the_step_follows_a_promotion_and_fails_with_a_rollback(
    cluster, api, namespace, account, deployer, config
):
    wait = (f"mro/{NAME}", "-n", namespace, "--timeout=300s")
    with PlayedPlane(api, namespace, NAME) as plane, running(account, namespace, plane):
        deploy.python_func(config, f"{NAME}/1", 60.0)
        cluster.kubectl("wait", "--for=condition=Promoted", *wait)
        deploy.python_func(config, f"{NAME}/2", 60.0)
        cluster.kubectl("wait", "--for=condition=Promoted", *wait)
        assert stable(api, namespace, "2")["history"][0]["outcome"] == "promoted"
        plane.rates["3"] = 0.9
        with pytest.raises(Refused, match="was rolled back: harm in errors"):
            deploy.python_func(config, f"{NAME}/3", 60.0)
        said = cluster.kubectl("wait", "--for=condition=Promoted", *wait[:-1], "--timeout=1s",
                               check=False)  # fmt: skip
        assert "timed out" in said
        assert plane.unanswered == 0


def test_the_step_orders_alone_or_says_that_time_is_over(api, namespace, deployer, config):
    deploy.python_func(config, f"{NAME}/1", 0.0)
    with pytest.raises(Timeout, match=r"undecided after 0\.1 s"):
        deploy.python_func(config, f"{NAME}/1", 0.1)
