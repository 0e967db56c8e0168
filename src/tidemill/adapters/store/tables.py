"""The schema of the store. Instants are UTC text in ISO 8601, bodies are JSON text."""

from __future__ import annotations

from sqlalchemy import Column, Index, Integer, MetaData, String, Table, Text, UniqueConstraint

__all__ = [
    "incident",
    "judged_attempt",
    "ledger",
    "metadata",
    "monitor_window",
    "partition",
    "retrain_decision",
    "retrain_request",
    "rollout_decision",
    "rollout_spec",
    "rollout_state",
]

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
    }
)

partition = Table(
    "partition",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("table", String(200), nullable=False),
    Column("period", String(10), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("as_of", String(32), nullable=False),
    Column("source_digest", String(64), nullable=False),
    Column("schema_digest", String(64), nullable=False),
    Column("content_digest", String(64), nullable=False),
    Column("rows", Integer, nullable=False),
    Column("key", String(500), nullable=False),
    Column("status", String(20), nullable=False),
    UniqueConstraint("table", "period", "attempt"),
)
"""Every attempt at a month of a raw table."""

ledger = Table(
    "ledger",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("at", String(32), nullable=False),
    Column("action", String(20), nullable=False),
    Column("model", String(200), nullable=False),
    Column("version", String(20), nullable=False),
    Column("alias", String(255), nullable=False),
    Column("who", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("evidence", String(71), nullable=False),
    Column("correlation", String(200), nullable=False),
    Column("previous", String(64), nullable=False),
    Column("digest", String(64), nullable=False),
)
"""The promotion ledger; rows are only ever added."""

rollout_spec = Table(
    "rollout_spec",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("generation", Integer, nullable=False),
    Column("body", Text, nullable=False),
)
"""What people want of a rollout."""

rollout_state = Table(
    "rollout_state",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("body", Text, nullable=False),
)
"""What the rollout's controller knows."""

rollout_decision = Table(
    "rollout_decision",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("body", Text, nullable=False),
)
"""The decision log, written together with the state; rows are only ever added."""

judged_attempt = Table(
    "judged_attempt",
    metadata,
    Column("name", String(400), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("seen_at", String(32), nullable=False, index=True),
    Column("body", Text, nullable=False),
)
"""What the judge knows of attempts that somebody else carries out; `seen_at` is the last look."""

monitor_window = Table(
    "monitor_window",
    metadata,
    Column("model", String(200), primary_key=True),
    Column("end", String(32), primary_key=True),
    Column("body", Text, nullable=False),
)
"""The verdict on each monitored window."""

incident = Table(
    "incident",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("model", String(200), nullable=False),
    Column("revision", String(20), nullable=False),
    Column("cause", String(20), nullable=False),
    Column("state", String(20), nullable=False),
    Column("opened_at", String(32), nullable=False),
    Column("edits", Integer, nullable=False),
    Column("body", Text, nullable=False),
)
"""Incidents; at most one unresolved per model, revision and cause."""
Index(
    "uq_incident_unresolved",
    incident.c.model,
    incident.c.revision,
    incident.c.cause,
    unique=True,
    sqlite_where=incident.c.state != "resolved",
    postgresql_where=incident.c.state != "resolved",
)

retrain_request = Table(
    "retrain_request",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("model", String(200), nullable=False),
    Column("state", String(20), nullable=False),
    Column("requested_at", String(32), nullable=False),
    Column("edits", Integer, nullable=False),
    Column("body", Text, nullable=False),
)
"""Wishes to retrain; at most one per model is pending or running."""
ACTIVE = retrain_request.c.state.in_(["pending", "running"])
Index(
    "uq_retrain_request_active",
    retrain_request.c.model,
    unique=True,
    sqlite_where=ACTIVE,
    postgresql_where=ACTIVE,
)

retrain_decision = Table(
    "retrain_decision",
    metadata,
    Column("request", String(40), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("model", String(200), nullable=False),
    Column("verb", String(10), nullable=False),
    Column("at", String(32), nullable=False),
    Column("body", Text, nullable=False),
)
"""The governor's journal; rows are only ever added."""
