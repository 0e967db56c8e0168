"""The one typed description of a project: what may be configured, where each value came from.

Lives here: the pydantic schema (one module per group), the layered load with its trace, the
cross-checks that need no I/O beyond the project's own files, the JSON Schema export.
May not live here: anything that talks to a service, or acts on a setting.
"""

from tidemill.settings.load import Loaded, Origin, find_project, load
from tidemill.settings.paths import Paths
from tidemill.settings.schema import Settings

__all__ = ["Loaded", "Origin", "Paths", "Settings", "find_project", "load"]
