"""Bundles with which one thing is wrong each, as a canary may be that must never serve.

Each function spoils a good bundle, before or after it is signed, and returns what `sign` said of
the bundle that is ordered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from tidemill.bundle import read_manifest
from tidemill.testing.models import write_bundle, write_golden_rows

__all__ = ["corrupt", "demanding", "drifted", "misplaced", "tampered"]

T = TypeVar("T")
Sign = Callable[[Path], T]


def corrupt(bundle: Path, sign: Sign[T]) -> T:
    """A graph that is cut off, and signed so."""
    graph = (bundle / "model.onnx").read_bytes()
    (bundle / "model.onnx").write_bytes(graph[: len(graph) // 2])
    return sign(bundle)


def drifted(bundle: Path, sign: Sign[T]) -> T:
    """A model that does not score as it did when it was packaged."""
    write_golden_rows(bundle, read_manifest(bundle), off=0.01)
    return sign(bundle)


def demanding(bundle: Path, sign: Sign[T]) -> T:
    """A model that needs what clients do not send."""
    manifest = read_manifest(bundle)
    crew = replace(manifest.inputs[-1], name="crew", origin="request")
    return sign(write_bundle(bundle, manifest=replace(manifest, inputs=(*manifest.inputs, crew))))


def tampered(bundle: Path, sign: Sign[T]) -> T:
    """A file that is another one than was signed."""
    signed = sign(bundle)
    (bundle / "profile.json").write_text("{}")
    return signed


def misplaced(bundle: Path, sign: Sign[T]) -> T:
    """Another bundle than was ordered, a good one and signed, in its place."""
    ordered = sign(bundle)
    sign(write_bundle(bundle, manifest=read_manifest(bundle), bias=-1.5))
    return ordered
