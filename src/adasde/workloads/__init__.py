"""What is trained: workloads (data, model, loss and metrics), their registry, and the data sets that they learn.

Nothing here imports torch until a workload or its arrays are loaded.
"""

from adasde.workloads.base import Dataset, Workload
from adasde.workloads.registry import WORKLOADS, CostProfile, Entry, load_workload, workload_named

__all__ = ["WORKLOADS", "CostProfile", "Dataset", "Entry", "Workload", "load_workload", "workload_named"]
