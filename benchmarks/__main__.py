"""Run one benchmark by name, or all of them."""

import importlib
import pkgutil
import sys
from pathlib import Path

known = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])]
known = [name for name in known if not name.startswith("_")]
chosen = sys.argv[1:] or known
if unknown := set(chosen) - set(known):
    sys.exit(f"no benchmark {', '.join(sorted(unknown))}; known: {', '.join(known)}")
for name in chosen:
    print(f"== {name}")
    importlib.import_module(f"benchmarks.{name}").main()
