"""Run benchmarks by name, or all of them: `python -m benchmarks [NAME …]`, `… NAME --OPTION …`."""

import importlib
import inspect
import pkgutil
import sys
from itertools import takewhile
from pathlib import Path

known = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])]
known = [name for name in known if not name.startswith("_")]
names = list(takewhile(lambda argument: not argument.startswith("-"), sys.argv[1:]))
options = sys.argv[1 + len(names) :]
if unknown := set(names) - set(known):
    sys.exit(f"no benchmark {', '.join(sorted(unknown))}; known: {', '.join(known)}")
if options and len(names) != 1:
    sys.exit(f"{' '.join(options)}: options belong to one benchmark")
for name in names or known:
    main = importlib.import_module(f"benchmarks.{name}").main
    if options and not inspect.signature(main).parameters:
        sys.exit(f"{' '.join(options)}: the benchmark {name} has no options")
    print(f"== {name}")
    main(*options)
