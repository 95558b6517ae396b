"""Tutorial: find the critical batch."""

# %% [markdown]
# # Find the critical batch
#
# How large may the batch become before examples are wasted? This page measures the answer
# while a run trains, from the gradients that it computes anyway, checks it, and then raises
# the batch as far as it goes. It takes half a minute on one core.

# %%
import copy

import torch
from matplotlib.figure import Figure
from torch import nn

import adasde

torch.set_num_threads(1)  # so small a model is fastest on one
torch.manual_seed(0)
inputs = torch.randn(90_112, 20)
teacher = nn.Sequential(nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 10))
labels = torch.distributions.Categorical(logits=10 * teacher(3 * inputs).detach()).sample()
held = inputs[81_920:], labels[81_920:]


def loss(model, x, y):
    """Return the mean loss of a batch."""
    return nn.functional.cross_entropy(model(x), y)


# %% [markdown]
# ## Measure
#
# The loop accumulates gradients over micro-batches. `MicroBatchNoise` compares them: the part
# that they share is the gradient, the rest is its noise. That costs one line,
# `noise.accumulate()`, after each backward pass.

# %%
MICRO_BATCH = 8


def step(model, optimizer, noise, first, micro_batches):
    """Take one step on the examples from ``first`` on; return where the next begins."""
    for _ in range(micro_batches):
        batch = slice(first, first + MICRO_BATCH)
        (loss(model, inputs[batch], labels[batch]) / micro_batches).backward()
        noise.accumulate()
        first += MICRO_BATCH
    optimizer.step()
    optimizer.zero_grad()
    return first


torch.manual_seed(0)
model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
# In a long run leave `every` at 16, which costs less.
noise = adasde.MicroBatchNoise(optimizer, MICRO_BATCH, every=1)
seen, kept = 0, {}
while seen < 40_960:
    seen = step(model, optimizer, noise, seen, micro_batches=2)
    if seen in (4096, 40_960):
        kept[seen] = copy.deepcopy((model, optimizer))
        found, critical = loss(model, *held).item(), noise.critical_batch()
        print(f"after {seen:6,} examples: loss {found:.3f}, critical batch {critical:.0f}")
print(f"the run so far could have been made at {16 * noise.largest_kappa():.0f}")
figure = noise.plot()
figure.axes[0].set_ylim(
    12, 200_000
)  # where noise hides the gradient, the noise scale has no end

# %% [markdown]
# The critical batch is the largest at which the loss is predicted to fall, per example, at
# 90% of its speed at batch 16. It grows while the loss falls, since the gradient shrinks and
# its noise does not. The gradient noise scale, tr Sigma / |g|^2, is larger: it averages over
# all weights, and those that carry the descent have more signal. Both are estimates from a
# few thousand examples and scatter by a factor of two.
#
# `largest_kappa` speaks of the whole run from its start, and never takes a beta below 0.5.
# `pandas.DataFrame(noise.history)` is the table behind the plot.
#
# ## Check
#
# `adasde.branch` tries larger batches from the two states that were kept. Its forecast is
# made from the noise at that state.

# %%
reports = {}
for seen, (model, optimizer) in kept.items():
    fresh = slice(seen, seen + 8192)
    data = inputs[fresh], labels[fresh]
    reports[seen] = adasde.branch(
        model, optimizer, loss, data, held, batch_size=16, betas="half-life"
    )
    print(f"after {seen:,} examples:\n{reports[seen]}\n")

# %% plot
figure = Figure(figsize=(9, 3.6), layout="constrained")
for panel, (seen, report) in zip(figure.subplots(1, 2), reports.items(), strict=True):
    sizes = [16 * kappa for kappa in report.forecasts]
    gaps, intervals = zip(*report.gaps.values(), strict=True)
    panel.axhspan(
        -report.tolerance,
        report.tolerance,
        color="0.9",
        label=f"tolerance, {report.tolerance:g}",
    )
    panel.errorbar(sizes, gaps, intervals, fmt="o", capsize=3, label="measured, 95% interval")
    panel.plot(
        sizes,
        report.forecasts.values(),
        "D",
        markerfacecolor="none",
        label="forecast from the noise",
    )
    panel.set(
        xscale="log",
        xlabel="batch size",
        ylabel="gap in loss to batch 16 (nats)",
        ylim=(-0.02, 0.26),
    )
    panel.set_xticks(sizes, [f"{size:g}" for size in sizes])
    panel.minorticks_off()
    panel.set_title(f"After {seen:,} examples\n{report.answer}", fontsize="medium")
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, loc="upper left")

# %% [markdown]
# Early, even batch 32 falls behind, and the forecast says so; it overstates the gap, because
# it takes the speed at the branch point for all of the branch. Later, batch 256 follows batch
# 16.
#
# ## Use it
#
# A schedule that halves the learning rate can double the batch instead, and keep the run's
# SDE: `BatchRamp` does so, here up to the critical batch. Where that is reached, the rate
# falls as planned.

# %%
MILESTONES = (
    8192,
    16_384,
    24_576,
)  # where the schedule halves the rate, in examples from here on


def finish(ramped):
    """Train on 40,960 further examples; return losses, batch sizes, and the number of steps."""
    model, optimizer = copy.deepcopy(kept[40_960])
    own = adasde.MicroBatchNoise(optimizer, MICRO_BATCH, every=1)
    own.load_state_dict(noise.state_dict())
    limit = {"noise": own} if ramped else {"largest": 16}
    ramp = adasde.BatchRamp(optimizer, 16, MILESTONES, **limit, betas="half-life")
    first, steps, curve, sizes = 40_960, 0, [], []
    while first < 81_920:
        first = step(model, optimizer, own, first, ramp.batch_size // MICRO_BATCH)
        ramp.step()
        steps += 1
        if first % 2048 == 0:
            curve.append((first / 1000, loss(model, *held).item()))
            sizes.append(ramp.batch_size)
    return curve, sizes, steps


decay, ramp = finish(ramped=False), finish(ramped=True)
for name, (curve, sizes, steps) in {"decay": decay, "ramp": ramp}.items():
    end = f"the last of batch {sizes[-1]}"
    print(f"{name:5}: loss {curve[-1][1]:.4f} after {steps} steps, {end}")

# %% plot
figure = Figure(figsize=(9, 3.6), layout="constrained")
left, right = figure.subplots(1, 2)
for name, (curve, sizes, _), color in (
    ("the rate decays", decay, "k"),
    ("the batch grows", ramp, "C0"),
):
    examples, losses = zip(*curve, strict=True)
    left.plot(examples, losses, "o-", ms=3, color=color, label=name)
    right.step(examples, sizes, color=color, where="post", label=name)
gap = ramp[0][-1][1] - decay[0][-1][1]
left.set(ylabel="held-out loss (nats)")
left.set_title(f"{1 - ramp[2] / decay[2]:.0%} fewer steps, loss {gap:+.4f}")
right.set(ylabel="batch size", yscale="log")
right.set_yticks([16, 32, 64, 128], ["16", "32", "64", "128"])
right.minorticks_off()
right.set_title("Doubled where the rate would halve")
for panel in (left, right):
    panel.set_xlabel("examples seen (thousands)")
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False)
