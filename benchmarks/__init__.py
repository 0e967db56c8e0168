"""Whole-run measurements, each against a baseline in the same run: `python -m benchmarks [NAME]`.

Lives here: one module per part with a `main()` that prints ratios.
May not live here: a figure that was not measured in the run that prints it.
"""
