"""Tutorial: change the batch in mid-training."""

# %% [markdown]
# # Change the batch in mid-training
#
# A run trains at batch size 16, and now you have more devices. How far can the batch go, and
# how do you change it? This page asks `adasde.branch`, which tries it out on copies of the
# run, changes the batch by `adasde.rescale`, and shows what goes wrong if the optimizer's
# state stays as it is. It takes a quarter of a minute on one core.

# %%
import copy
import math

import torch
from matplotlib.figure import Figure
from torch import nn

import adasde

torch.set_num_threads(1)  # so small a model is fastest on one
torch.manual_seed(0)
inputs = torch.randn(57_344, 20)
teacher = nn.Sequential(nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 10))
labels = torch.distributions.Categorical(logits=5 * teacher(3 * inputs).detach()).sample()
EXAMPLES = 49_152  # of one epoch; the others are held out
held = inputs[EXAMPLES:], labels[EXAMPLES:]


def loss(model, x, y):
    """Return the mean loss of a batch."""
    return nn.functional.cross_entropy(model(x), y)


class Run:
    """A model, its optimizer, its schedule, and how many examples it has seen."""

    def __init__(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 10))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=4e-3)
        self.seen = 0
        # The schedule counts examples, so it needs no other length at another batch size.
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self.factor)

    def factor(self, _step):
        """Return the share of the learning rate that the cosine leaves."""
        return (1 + math.cos(math.pi * self.seen / EXAMPLES)) / 2

    def train(self, until, batch_size):
        """Train until so many examples were seen; return each step's length over lr."""
        lengths, weights = [], list(self.model.parameters())
        while self.seen < until:
            batch = slice(self.seen, self.seen + batch_size)
            before = [weight.detach().clone() for weight in weights]
            rate = self.optimizer.param_groups[0]["lr"]
            self.optimizer.zero_grad()
            loss(self.model, inputs[batch], labels[batch]).backward()
            self.optimizer.step()
            self.seen += batch_size
            self.scheduler.step()
            moved = sum(
                (weight.detach() - old).square().sum()
                for weight, old in zip(weights, before, strict=True)
            )
            lengths.append(moved.sqrt().item() / rate)
        return lengths


run = Run()
run.train(16_384, batch_size=16)
print(f"loss {loss(run.model, *held).item():.4f} after {run.seen} examples at batch 16")

# %% [markdown]
# ## Try it out
#
# `branch` trains copies of the run on at several batch sizes. Each copy is rescaled and sees
# the same examples in the same order. The report says up to which batch the loss stays within
# the tolerance of the copy that goes on at 16, and what the gradient's noise at this point
# would have forecast. The run itself is left as it is.

# %%
fresh = slice(run.seen, run.seen + 8192)  # a branch must not repeat what the run has seen
data = inputs[fresh], labels[fresh]
report = adasde.branch(
    run.model, run.optimizer, loss, data, held, batch_size=16, betas="half-life"
)
print(report)
figure = report.plot()

# %% [markdown]
# The forecast counts only the speed that a larger batch loses. It does not know what small
# betas do: at batch 256 beta1 is 0.9^16 = 0.19. So a branch can break where the forecast holds.
#
# ## Change it
#
# `rescale` changes the optimizer in place: learning rate, betas, eps, weight decay, and the
# running averages. The scheduler holds learning rates too, so it is given as well. If one is
# left out, `rescale` refuses.

# %%
kappa = int(report.largest_kappa)
larger = copy.deepcopy(run)  # the run itself goes on at batch 16, to compare
adasde.rescale(larger.optimizer, kappa, scheduler=larger.scheduler, betas="half-life")

stale = copy.deepcopy(run)
adasde.rescale(
    stale.optimizer, kappa, scheduler=stale.scheduler, betas="half-life", second_moment="keep"
)

NAMES = {
    "batch 16": (run, 16),
    f"batch {16 * kappa}": (larger, 16 * kappa),
    "v kept": (stale, 16 * kappa),
}
curves, steps = {name: [] for name in NAMES}, {name: [] for name in NAMES}
marks = torch.linspace(run.seen, EXAMPLES, 17).int().tolist()[1:]
for name, (each, batch_size) in NAMES.items():
    for mark in marks:
        steps[name] += each.train(mark, batch_size)
        curves[name].append(loss(each.model, *held).item())
    print(f"{name:10}: loss {curves[name][-1]:.4f}; first step {steps[name][0]:.2f} lr long")

# %% [markdown]
# A step at the larger batch must be sqrt(kappa) times as long as one at batch 16, in units of
# each one's learning rate, because the noise in the gradient is smaller by that factor and
# Adam divides by it. Adam's second moment v still holds the noise of the old batch. `rescale`
# carries it over: v becomes g2 + (v - g2) / kappa, where g2 is the part that the mean
# gradient explains ([Theory](../../theory.md)). If v is kept, as it is when people change lr
# and betas by hand, the steps are too short until beta2 has forgotten the old batch.

# %% plot
COLORS = {"batch 16": "k", f"batch {16 * kappa}": "C0", "v kept": "C3"}
figure = Figure(figsize=(9, 3.6), layout="constrained")
left, right = figure.subplots(1, 2)
for name, (_, batch_size) in NAMES.items():
    thousands = [mark / 1000 for mark in marks]
    right.plot(thousands, curves[name], "o-", ms=3, color=COLORS[name], label=name)
    if name != "batch 16":
        thousands = [(16_384 + batch_size * (step + 1)) / 1000 for step in range(128)]
        left.plot(thousands, steps[name][:128], color=COLORS[name], lw=1, label=name)
usual = sum(steps["batch 16"][:64]) / 64 * kappa**0.5
left.axhline(usual, color="0.4", ls="--", lw=1, label="sqrt(kappa) times that of batch 16")
left.set(ylabel="length of a step / lr", ylim=(0, None))
left.set_title(f"With v kept the first step has {steps['v kept'][0] / usual:.2f} of its length")
gaps = [
    max(abs(mine - right) for mine, right in zip(curve, curves["batch 16"], strict=True))
    for curve in curves.values()
]
right.set(
    ylabel="held-out loss (nats)",
    title=f"Largest gap {gaps[1]:.4f} nats, with v kept {gaps[2]:.4f}",
)
for panel in (left, right):
    panel.set_xlabel("examples seen (thousands)")
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False)

# %% [markdown]
# With v kept, the run takes a cut of its learning rate that nobody planned: the loss falls at
# first, as after any cut, and ends higher. With v carried over, the run at the larger batch is
# the run at 16, in fewer steps.
#
# Next: [find the critical batch](critical_batch.md) while you train.
