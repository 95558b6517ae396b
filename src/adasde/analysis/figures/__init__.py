"""Figures: one module per plot with its caption beside it, found by name in `registry`."""
