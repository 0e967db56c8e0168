"""The platforms: one module per SDK, the only place where it is imported.

Lives here: implementations of `tidemill.ports`, each raising only `tidemill.errors`.
May not live here: a decision (that is `domain`), a default (that is `settings`).
"""
