"""Which batch norm a network has."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

PLAIN_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def batch_norm(network: nn.Module) -> str | None:
    """Return ``torch`` if a network has batch norm, the name of its class if it is not torch's own, or None."""
    kinds = {type(module) for module in network.modules() if isinstance(module, _BatchNorm)}
    others = [kind.__name__ for kind in kinds if kind not in PLAIN_NORMS]
    return min(others, default="torch" if kinds else None)
