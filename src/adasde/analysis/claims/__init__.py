"""Statements of the paper, and ours, as executable predicates: one file per kind of claim, judged by `evaluation`."""
