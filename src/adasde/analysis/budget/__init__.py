"""Cut a campaign to a budget of device-hours: which cells it keeps, with how many seeds, at how many epochs.

A cell is kept only if it can be decided: with the spread between seeds that finished runs have measured
(``spreads.csv``), the probability that a claim on it is *reproduced* if the true gap is 0 is at least `POWER`, for each
of its claims. Seeds are raised, or lowered, to that.

Steps are bought one after another, in an order that the budget does not change, until one is dearer than what is left.
A step adds a cell of the square-root rule or of SVAG, with the other rules at its level, at an eighth of the
experiment's epochs to begin with; or it doubles these epochs. The first is that which costs least, the next that which
costs least for its worth. The second cell of an experiment is worth half as much as its first, the third a third, and
cells are worth the square root of the part of the epochs that they run (ours): so a little of everything comes before
all of one. A larger budget keeps all cells that a smaller one keeps, at no fewer seeds and epochs.

A fine-tuning is a step too, once its pre-training is bought. It is worth as much as one more cell of that (ours). What
it decides is unknown, for no finished run has measured its spread; so it keeps its number of seeds.

Simulations are kept as they are. Experiments from which others branch keep their epochs.
"""

from adasde.analysis.budget.campaign import cut
from adasde.analysis.budget.report import overlay_text, summary

__all__ = ["cut", "overlay_text", "summary"]
