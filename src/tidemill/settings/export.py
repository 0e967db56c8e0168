"""The JSON Schema of the settings, for editors and for checks outside Python."""

from __future__ import annotations

import json

from tidemill.settings.schema import Settings

__all__ = ["SCHEMA_FILE", "schema_text"]

SCHEMA_FILE = "configs/schema.json"


def schema_text() -> str:
    """Return the schema as it stands in `configs/schema.json`; layers may leave anything out."""
    body = Settings.model_json_schema()
    for definition in (body, body["$defs"]["TrainingSettings"]):
        definition.pop("required", None)  # a layer sets what it wants; the whole is checked
    return json.dumps(body, indent=1, sort_keys=True) + "\n"
