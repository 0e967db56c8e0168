"""What a pipeline does, one module per step; components, DVC stages and the CLI call these.

Lives here: plain functions on paths, frames and ports, with the step's own compute library.
May not live here: kfp, mlflow, feast, dvc, evidently (they are behind ports), settings loading.
"""

import os

# Steps run on shared cores. GNU OpenMP's threads spin while they wait unless this is set before
# torch or scikit-learn loads it: one training took 74 s instead of 11 s beside other work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
