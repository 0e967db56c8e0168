"""The OpenAPI document: what it holds, and that it follows the server's own tables."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from tests.server_app import FULL, ROW, Running, request

from tidemill.server import operations
from tidemill.server.operations import STATUS

SERVER = Path(operations.__file__).parent
INFER = "/v2/models/{name}/infer"


@pytest.fixture
def document(served: Running) -> dict[str, Any]:
    return served.ask("/openapi.json", method="GET").body  # type: ignore[no-any-return]


def test_every_code_has_the_status_it_is_raised_with() -> None:
    """The table against every `Rejected(...)` of the source."""
    raised: dict[str, set[int]] = {}
    for path in SERVER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            default = {"Rejected": 400, "unauthenticated": 401}.get(node.func.id)
            if default is None or not isinstance(node.args[0], ast.Constant):
                continue
            given = node.args[2:3]
            status = given[0].value if given and isinstance(given[0], ast.Constant) else default
            raised.setdefault(str(node.args[0].value), set()).add(int(status))
    assert {code: {status} for code, status in STATUS.items()} == raised


def test_it_names_the_models_and_their_versions(document: dict[str, Any]) -> None:
    operation = document["paths"]["/v2/models/{name}/versions/{version}/infer"]["post"]
    places = {p["name"]: p["schema"] for p in operation["parameters"] if p["in"] == "path"}
    assert places["name"]["enum"] == ["flight-delay"]
    assert places["version"]["enum"] == ["7"]


def test_every_reference_is_there(document: dict[str, Any]) -> None:
    def references(part: Any) -> set[str]:
        if isinstance(part, dict):
            own = {part["$ref"]} if isinstance(part.get("$ref"), str) else set()
            return own.union(*map(references, part.values()))
        return set().union(*map(references, part)) if isinstance(part, list) else set()

    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert references(document) <= known


def test_requests_and_answers_fit_their_schemas(served: Running, document: dict[str, Any]) -> None:
    def fits(schema: dict[str, Any], value: Any) -> bool:
        whole = {"components": document["components"], **schema}
        return Draft202012Validator(whole).is_valid(value)

    operation = document["paths"][INFER]["post"]
    body = operation["requestBody"]["content"]["application/json"]
    answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
    refusal = operation["responses"]["400"]["content"]["application/json"]["schema"]
    assert fits(body["schema"], request(FULL, 2))
    assert not fits(body["schema"], request(FULL, 2) | {"input": []})
    assert fits(answer, served.infer(FULL, 2).body)
    assert fits(refusal, served.infer(FULL | {"seats": [1.0, 2.0]}).body)
    assert not fits(refusal, {"error": "no", "code": "unknown_model"})


def test_the_example_is_answered(served: Running, document: dict[str, Any]) -> None:
    content = document["paths"][INFER]["post"]["requestBody"]["content"]["application/json"]
    example = content["examples"]["flight-delay"]["value"]
    assert {tensor["name"] for tensor in example["inputs"]} == set(FULL)
    assert served.infer({}, **example).status == 200


def test_a_server_without_keys_asks_for_none(document: dict[str, Any]) -> None:
    operation = document["paths"][INFER]["post"]
    assert operation["security"] == []
    assert "401" not in operation["responses"]


def test_a_wrong_method_names_the_right_one(served: Running) -> None:
    assert served.ask("/v2", method="POST").headers[b"allow"] == b"GET, HEAD"


def test_models_with_names_alike_are_told_apart(served: Running, bundle: Path) -> None:
    served.app.repository.add(bundle, "c", "a.b")
    served.app.repository.add(bundle, "b.c", "a")
    document = served.ask("/openapi.json", method="GET").body
    operation = document["paths"]["/v2/models/{name}/predict"]["post"]
    bodies = operation["requestBody"]["content"]["application/json"]["schema"]["anyOf"]
    assert len({body["$ref"] for body in bodies}) == 3


def test_each_model_has_its_own_type_of_records(served: Running, bundle: Path) -> None:
    served.app.repository.add(bundle, "1", "other")
    document = served.ask("/openapi.json", method="GET").body
    operation = document["paths"]["/v2/models/{name}/predict"]["post"]
    bodies = operation["requestBody"]["content"]["application/json"]["schema"]["anyOf"]
    names = [body["$ref"].rpartition("/")[2] for body in bodies]
    assert sorted(names) == ["flight-delay.7.Records", "other.1.Records"]
    schemas = document["components"]["schemas"]
    for name in names:
        record = name.removesuffix("s")
        assert set(schemas[record]["required"]) == {"sched_minute", "carrier", "origin"}
        assert schemas[record]["additionalProperties"] is False
        validator = Draft202012Validator(
            {"components": document["components"], "$ref": f"#/components/schemas/{name}"}
        )
        assert validator.is_valid({"records": [FULL]})
        assert not validator.is_valid({"records": [ROW]})  # nor features, nor all of their keys
        assert validator.is_valid({"records": [ROW | {"tailnum": None}]})
