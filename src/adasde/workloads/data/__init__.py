"""Data sets: their registry, and how their files are fetched, verified and prepared as arrays.

Use `prepare` and `load_arrays` of `adasde.workloads.data.registry`.
"""
