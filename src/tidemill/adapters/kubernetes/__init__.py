"""Kubernetes behind the rollout's ports: the resource, its status, servers, routes.

Lives here: the API client (`client`), what is kept of the cluster in memory (`cache`), the custom
resources (`resources`, `schema`), the ports on them (`rollouts`, `workloads`, `routes`), and a look
from outside (`survey`).
May not live here: a decision; anything that is known only in memory and matters after a crash.
"""
