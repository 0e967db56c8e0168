"""Where the judge finds servers: behind a Service, or at addresses; and Flagger's weight."""

from __future__ import annotations

from typing import Any

import pytest

from tidemill.adapters.kubernetes.arms import Arms
from tidemill.errors import NotFound, Unavailable


def endpoint(uid: str, host: str, *, ready: bool | None = True) -> dict[str, Any]:
    return {
        "addresses": [host],
        "conditions": {} if ready is None else {"ready": ready},
        "targetRef": {"kind": "Pod", "name": "p", "uid": uid},
    }


class Api:
    def __init__(self, *slices: dict[str, Any], canary: dict[str, Any] | None = None) -> None:
        self.slices, self.canary = slices, canary

    def select(self, resource, namespace, labels):
        assert (resource.plural, namespace) == ("endpointslices", "ml")
        assert labels == {"kubernetes.io/service-name": "churn"}
        return list(self.slices)

    def get(self, resource, namespace, name):
        if self.canary is None:
            raise NotFound(f"no {resource.plural}")
        return self.canary


def arms(*slices: dict[str, Any], **rest: Any) -> Arms:
    return Arms(lambda: Api(*slices, **rest))


HTTP = [{"name": "http", "port": 8080}, {"name": "grpc", "port": 8081}]


def test_every_ready_pod_behind_a_service_of_several_slices():
    found = arms(
        {"ports": HTTP, "endpoints": [endpoint("u1", "10.0.0.1"), endpoint("u2", "10.0.0.2")]},
        {"ports": HTTP, "endpoints": [endpoint("u3", "10.0.0.3", ready=False)]},
        {"ports": HTTP, "endpoints": [endpoint("u4", "fd00::4", ready=None)]},
    ).locate("ml/churn")
    assert found.servers == {"u1": "10.0.0.1:8080", "u2": "10.0.0.2:8080", "u4": "[fd00::4]:8080"}


def test_a_service_with_one_port_needs_no_name_for_it():
    found = arms({"ports": [{"port": 9000}], "endpoints": [endpoint("u1", "10.0.0.1")]})
    assert found.locate("ml/churn").servers == {"u1": "10.0.0.1:9000"}


@pytest.mark.parametrize(
    ("slices", "why"),
    [
        ([], "no ready endpoint"),
        ([{"ports": HTTP, "endpoints": None}], "no ready endpoint"),
        ([{"ports": [{"name": "a", "port": 1}, {"name": "b", "port": 2}]}], "expected one named"),
    ],
    ids=["no slice", "no endpoint", "no port http"],
)
def test_a_service_without_servers_is_not_read(slices, why):
    with pytest.raises(Unavailable, match=why):
        arms(*slices).locate("ml/churn")


def test_addresses_need_no_cluster():
    found = Arms(lambda: pytest.fail("no cluster is needed")).locate("a:1,b:2")
    assert found.servers == {"a:1": "a:1", "b:2": "b:2"}


def test_flaggers_weight_is_in_its_resource():
    assert arms(canary={"status": {"canaryWeight": 30}}).weight("ml", "churn") == 30
    assert arms(canary={}).weight("ml", "churn") == 0, "before the first analysis"
    with pytest.raises(NotFound):
        arms().weight("ml", "churn")
