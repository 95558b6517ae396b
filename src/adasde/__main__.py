"""``python -m adasde`` is the command line."""

from .cli import leave

leave()
