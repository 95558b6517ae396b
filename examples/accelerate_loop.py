"""accelerate: measure the noise while gradients accumulate, then go on at the largest batch that it allows."""

import math

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import adasde

torch.set_num_threads(1)  # so small a model is fastest on one
torch.manual_seed(0)
inputs, teacher = torch.randn(25_000, 20), nn.Sequential(nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 10))
labels = torch.distributions.Categorical(logits=10 * teacher(3 * inputs).detach()).sample()
examples = TensorDataset(inputs[:20_480], labels[:20_480])

accelerator = Accelerator(gradient_accumulation_steps=2)
model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
model, optimizer, loader, scheduler = accelerator.prepare(
    model, optimizer, DataLoader(examples, batch_size=4, shuffle=True), scheduler
)
noise = adasde.MicroBatchNoise(optimizer, micro_batch_size=4, every=1)  # the run is short: measure every step


def train():
    """Train on every example once, and return the loss on others."""
    for x, y in loader:
        with accelerator.accumulate(model):
            accelerator.backward(nn.functional.cross_entropy(model(x), y))
            noise.accumulate()  # before the gradient is clipped
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    with torch.no_grad():
        x, y = inputs[20_480:].to(accelerator.device), labels[20_480:].to(accelerator.device)
        return nn.functional.cross_entropy(model(x), y).item()


print(f"loss {train():.4f} after an epoch at 8")
largest = noise.critical_batch()
kappa = 2 ** int(math.log2(min(max(largest / 8, 1), 16)))  # half-life betas were right up to 16 in our runs
print(f"batches up to {largest:.0f} are as good as 8, so go on at {8 * kappa}")
adasde.rescale(optimizer, kappa, scheduler=scheduler, betas="half-life")
noise.rescaled(kappa)
accelerator.gradient_accumulation_steps *= kappa
print(f"loss {train():.4f} after an epoch at {8 * kappa}")
