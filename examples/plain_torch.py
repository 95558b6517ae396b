"""A loop of your own: measure the gradient's noise for a while, then go on at the largest batch that it allows."""

import math

import torch
from torch import nn

import adasde

torch.set_num_threads(1)  # so small a model is fastest on one
torch.manual_seed(0)
inputs, teacher = torch.randn(44_000, 20), nn.Sequential(nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 10))
labels = torch.distributions.Categorical(logits=10 * teacher(3 * inputs).detach()).sample()
held, examples, micro_batch = slice(40_000, None), 40_000, 4
first = 14_400  # examples before the change


def train(change):
    """Train on every example once, at batch 8. With ``change``, raise the batch after the first ones."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    seen, micro_batches = 0, 2
    # The schedule counts examples, so it needs no other length at another batch size.
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: (1 + math.cos(math.pi * seen / examples)) / 2)
    noise = adasde.MicroBatchNoise(optimizer, micro_batch, every=1)  # the run is short: measure every step
    while seen < examples:
        for _ in range(micro_batches):
            part = slice(seen, seen + micro_batch)
            loss = nn.functional.cross_entropy(model(inputs[part]), labels[part])
            (loss / micro_batches).backward()
            noise.accumulate()
            seen += micro_batch
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        if change and seen == first:
            largest = noise.critical_batch()
            kappa = 2 ** int(math.log2(min(max(largest / 8, 1), 16)))  # half-life betas were right up to 16 in our runs
            print(f"after {seen} examples: batches up to {largest:.0f} are as good as 8, so go on at {8 * kappa}")
            adasde.rescale(optimizer, kappa, scheduler=scheduler, betas="half-life")
            noise.rescaled(kappa)
            micro_batches *= kappa
    with torch.no_grad():
        return nn.functional.cross_entropy(model(inputs[held]), labels[held]).item()


print(f"loss {train(change=True):.4f} with the change, {train(change=False):.4f} at 8 all along")
