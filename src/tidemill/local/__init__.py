"""The platform on one machine: processes that are declared, started, probed and restarted.

Lives here: the supervisor, the folder it shares with everyone who declares a process, and the
commands' view of it. May not live here: which processes a project has (that is `wiring`).
"""
