"""A loop of your own: measure the gradient's noise for a while, then go on with the largest batch that it allows."""

import torch
from torch import nn

import adasde

torch.manual_seed(0)
inputs = torch.randn(4096, 20)
labels = (inputs[:, :10].sum(1) + 3 * torch.randn(4096) > 0).long()
model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 2))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.98, 0.99))


def loss(model, inputs, labels):
    return nn.functional.cross_entropy(model(inputs), labels)


def train(steps, batch_size, after=lambda step: None):
    for step in range(1, steps + 1):
        drawn = torch.randint(len(inputs), (batch_size,))
        optimizer.zero_grad()
        loss(model, inputs[drawn], labels[drawn]).backward()
        optimizer.step()
        after(step)


sample = torch.randperm(len(inputs))[:1000].split(50)  # 20 chunks of training examples
chunks = [(inputs[part], labels[part]) for part in sample]
monitor = adasde.NoiseMonitor(model, optimizer, 16, loss, chunks, every=50)
train(200, 16, after=monitor)
largest = monitor.largest_kappa()
print(f"batches up to {16 * largest:.0f} keep the training within 10% of the one at 16")

kappa = 2 ** int(torch.tensor(min(largest, 8.0)).log2())
adasde.rescale(optimizer, kappa)
train(adasde.scaled_steps(800, kappa), 16 * kappa)
print(f"at {16 * kappa}: loss {loss(model, inputs, labels).item():.3f}")
