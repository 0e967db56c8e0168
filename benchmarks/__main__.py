"""Run one benchmark by name, or all of them; what follows the names are its options."""

import importlib
import pkgutil
import sys
from itertools import takewhile
from pathlib import Path

known = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])]
known = [name for name in known if not name.startswith("_")]
named = list(takewhile(lambda word: not word.startswith("-"), sys.argv[1:]))
chosen = named or known
del sys.argv[1 : 1 + len(named)]
if unknown := set(chosen) - set(known):
    sys.exit(f"no benchmark {', '.join(sorted(unknown))}; known: {', '.join(known)}")
for name in chosen:
    print(f"== {name}")
    importlib.import_module(f"benchmarks.{name}").main()
