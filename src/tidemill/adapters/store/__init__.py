"""The store: ledgers, rollouts, incidents, requests, in SQLite or PostgreSQL.

Lives here: one SQLAlchemy Core schema (`tables`), the engine and migrations (`engine`), and one
module per noun that implements its port. May not live here: a rule about what may be written.
"""
