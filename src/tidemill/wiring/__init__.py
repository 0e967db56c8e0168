"""The composition root: settings become adapters here and nowhere else.

`Project` is what the CLI, the components and the DVC stages open. It is made of layers, each of
which builds on the ones before: opened → data → models → serving → monitoring → project. Every
factory imports its adapter when called, so that a process loads only the SDKs it uses.
"""

from tidemill.wiring.project import Project

__all__ = ["Project"]
