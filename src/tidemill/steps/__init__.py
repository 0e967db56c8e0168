"""What a pipeline does, one module per step; components, DVC stages and the CLI call these.

Lives here: plain functions on paths, frames and ports, with the step's own compute library.
May not live here: kfp, mlflow, feast, dvc, evidently (they are behind ports), settings loading.
"""
