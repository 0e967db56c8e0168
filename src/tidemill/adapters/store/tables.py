"""The schema of the store. Instants are UTC text in ISO 8601, bodies are JSON text."""

from __future__ import annotations

from sqlalchemy import Column, Integer, MetaData, String, Table, Text, UniqueConstraint

__all__ = ["ledger", "metadata", "partition", "rollout_decision", "rollout_spec", "rollout_state"]

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
