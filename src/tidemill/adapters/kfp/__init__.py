"""Kubeflow Pipelines: compile, lint, run on this machine, run on a cluster.

Lives here: everything that imports `kfp`. May not live here: what a step does.
A local run is a child process (`child`) that `local` starts, watches and stops; the two speak
through the files of the run's folder (`record`).
"""
