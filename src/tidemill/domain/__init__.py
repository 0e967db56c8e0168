"""Decisions: gate, rollout, drift verdict, retrain governor, ledger.

Lives here: frozen dataclasses and pure functions on them, with numpy.
May not live here: I/O, a clock, an SDK, settings.
"""
