"""One Kubeflow Pipelines component per step: typed signature, image, one call.

A component's body sees nothing of its module: it imports what it needs, opens the project from
`config` and calls the step. KFP reads the signatures: no `from __future__ import annotations`, no
`T | None`. What a component returns is a single value; everything else travels as artifact.
"""
