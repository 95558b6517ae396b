"""Tutorial: change the batch of a finished recipe."""

# %% [markdown]
# # Change the batch of a finished recipe
#
# You have a recipe that works at batch size 16 and want to train with larger batches. This
# page converts the recipe, trains it at three batch sizes, and compares the square-root rule
# with two habits: to keep all numbers, and to multiply the learning rate by kappa. It takes
# half a minute on one core.
#
# ## The recipe
#
# `adasde scale recipe` reads a recipe from a file. It knows the keys of transformers,
# DeepSpeed, timm, torchtune and axolotl; here are our own. What is not given has torch's
# defaults.

# %%
import math
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from matplotlib.figure import Figure
from torch import nn

import adasde
from adasde.cli import main

torch.set_num_threads(1)  # so small a model is fastest on one
RECIPE = """
optimizer: adamw
lr: 4e-3
batch_size: 16
steps: 2560
warmup_steps: 128
"""
with TemporaryDirectory() as folder:
    file = Path(folder) / "recipe.yaml"
    file.write_text(RECIPE)
    main(["scale", "recipe", str(file), "--to", "64"])

# %% [markdown]
# On the command line this is `adasde scale recipe recipe.yaml --to 64`. At 256, kappa is 16,
# and the linear form of the betas has no answer: 16 (1 - 0.9) is more than 1. Half-life
# betas, beta^kappa, exist at every kappa. In our runs they were right from the usual beta1 of
# 0.9 up to kappa 16.

# %%
recipe = adasde.Recipe(
    adasde.AdamHyperparameters(4e-3, 0.9, 0.999, 1e-8, weight_decay=0.01, decoupled=True),
    batch_size=16,
    steps=2560,
    warmup_steps=128,
)
try:
    recipe.scaled(16)
except adasde.InputError as error:
    print(str(error).partition(". Half")[0])
larger = recipe.scaled(16, betas="half-life").hyperparameters
print(f"half-life: beta1 {larger.beta1:.4f}, beta2 {larger.beta2:.4f}, lr {larger.lr:g}")

# %% [markdown]
# ## Training
#
# The data are synthetic: a small network, the teacher, labels random inputs with some noise.
# Every example is seen once. The learning rate warms up and then falls along a cosine; both
# are counted in steps and follow from the recipe.

# %%
torch.manual_seed(0)
inputs = torch.randn(49_152, 20)
teacher = nn.Sequential(nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 10))
labels = torch.distributions.Categorical(logits=5 * teacher(3 * inputs).detach()).sample()
EXAMPLES = 40_960  # the others are held out


def losses(recipe, seed):
    """Train by a recipe; return the held-out loss at ten times, equally far apart."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 10))
    h = recipe.hyperparameters
    betas = h.beta1, h.beta2
    optimizer = torch.optim.AdamW(model.parameters(), h.lr, betas, h.eps, h.weight_decay)

    def rate(step):
        warm_up = min(1.0, (step + 1) / recipe.warmup_steps)
        return warm_up * (1 + math.cos(math.pi * step / recipe.steps)) / 2

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    found = []
    for step, batch in enumerate(torch.randperm(EXAMPLES).split(recipe.batch_size), start=1):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[batch]), labels[batch]).backward()
        optimizer.step()
        scheduler.step()
        if step % (recipe.steps // 10) == 0:
            with torch.no_grad():
                output = model(inputs[EXAMPLES:])
                found.append(nn.functional.cross_entropy(output, labels[EXAMPLES:]).item())
    return found


# %% [markdown]
# Three seeds of each: the baseline, and at batch 64 and 256 the square-root rule (with
# half-life betas), the linear rule, and the old numbers. Under every rule the counts of steps
# are divided by kappa, so all runs see the same examples.

# %%
SEEDS = range(3)
RULES = {"sqrt": "square root", "linear": "linear: kappa lr", "none": "nothing changed"}
baseline = torch.tensor([losses(recipe, seed) for seed in SEEDS])
runs = {
    (rule, kappa): torch.tensor(
        [losses(recipe.scaled(kappa, rule, "half-life"), seed) for seed in SEEDS]
    )
    for rule in RULES
    for kappa in (4, 16)
}
for (rule, kappa), found in runs.items():
    gap = (found - baseline)[:, -1]  # by seed: same initial weights, same order of examples
    error = gap.std() / len(SEEDS) ** 0.5
    name = f"{RULES[rule]:17} batch {16 * kappa:3}"
    print(f"{name}: {gap.mean():+.4f} nats, standard error {error:.4f}")

# %% plot
LOOKS = {"sqrt": ("C0", "o"), "linear": ("C3", "s"), "none": ("0.5", "D")}
figure = Figure(figsize=(9, 3.6), layout="constrained")
left, right = figure.subplots(1, 2)
examples = torch.linspace(0.1, 1, 10) * EXAMPLES
left.plot(examples, baseline.mean(0), "k-", lw=4, alpha=0.25, label="batch 16")
for rule, (color, marker) in LOOKS.items():
    left.plot(
        examples, runs[rule, 16].mean(0), f"{marker}-", color=color, ms=4, label=RULES[rule]
    )
    for place, kappa in enumerate((4, 16)):
        gap = (runs[rule, kappa] - baseline)[:, -1]
        x, half = place + 0.15 * (list(LOOKS).index(rule) - 1), 4.3 * gap.std() / 3**0.5
        name = RULES[rule] if kappa == 4 else None
        right.errorbar(x, gap.mean(), half, fmt=marker, color=color, capsize=3, label=name)
left.set(
    xlabel="examples seen",
    ylabel="held-out loss (nats)",
    ylim=(1.23, 1.6),
    title="Batch 256: the square root follows batch 16",
)
right.axhline(0, color="0.6", lw=1)
right.set(xticks=(0, 1), xticklabels=("batch 64", "batch 256"), xlim=(-0.5, 1.5))
right.set_title("3 seeds, 95% intervals")
right.set_ylabel("gap to batch 16 at the end (nats)")
for panel in (left, right):
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False)

# %% [markdown]
# The square root ends where the baseline ends. Early in training it lags: there the gradient
# is large against its noise, and a larger batch has fewer steps. The lag is what
# `MicroBatchNoise` predicts, see [Find the critical batch](critical_batch.md).
#
# ## The best learning rate
#
# The rule says that the best learning rate at batch 256 is four times that at batch 16. One
# run for each of five rates:

# %%
RATES = [1e-3, 2e-3, 4e-3, 8e-3, 16e-3]
curves = {1: [], 16: []}
for lr in RATES:
    other = replace(recipe, hyperparameters=replace(recipe.hyperparameters, lr=lr))
    curves[1].append(losses(other, 0)[-1])
    curves[16].append(losses(other.scaled(16, betas="half-life"), 0)[-1])
best = {
    kappa: RATES[min(range(5), key=curve.__getitem__)] * kappa**0.5
    for kappa, curve in curves.items()
}

# %% plot
figure = Figure(figsize=(5.5, 3.6), layout="constrained")
panel = figure.subplots()
for kappa, color in ((1, "k"), (16, "C0")):
    panel.plot(
        [lr * kappa**0.5 for lr in RATES],
        curves[kappa],
        "o-",
        color=color,
        label=f"batch {16 * kappa}",
    )
panel.set(xscale="log", xlabel="learning rate", ylabel="held-out loss at the end (nats)")
panel.set_xticks([1e-3, 4e-3, 16e-3, 64e-3], ["0.001", "0.004", "0.016", "0.064"], minor=False)
panel.minorticks_off()
panel.set_title(f"Best of five rates: {best[1]:g} at batch 16, {best[16]:g} at batch 256")
panel.spines[["top", "right"]].set_visible(False)
panel.legend(frameon=False)

# %% [markdown]
# Next: [change the batch in mid-training](mid_training.md).
