"""A recipe of timm: measure the gradient's noise in one run, then train at the largest batch that it allows."""

import math

import timm
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2

import adasde

torch.set_num_threads(1)  # so small a model is fastest on one
torch.manual_seed(0)
images = torch.randn(1024, 3, 32, 32)
labels = torch.randint(2, (1024,))
images += labels[:, None, None, None] / 16  # the classes differ in brightness


def train(kappa):
    """Train for 4 epochs at batch size 16 kappa, by the recipe for 16; return the loss at the end and the noise."""
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=2)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=5e-4, weight_decay=0.05, betas=(0.9, 0.98))
    adasde.rescale(optimizer, kappa)  # before the schedule is made, which reads its rates
    epoch = adasde.scaled_steps(len(images) // 16, kappa)
    schedule, epochs = create_scheduler_v2(
        optimizer, sched="cosine", num_epochs=4, warmup_epochs=1, warmup_lr=1e-6 * kappa**0.5,
        min_lr=1e-5 * kappa**0.5, updates_per_epoch=epoch, step_on_epochs=False,
    )  # fmt: skip
    noise = adasde.MicroBatchNoise(optimizer, micro_batch_size=8, every=1)  # the run is short: measure every step
    for step in range(epochs * epoch):
        for _ in range(2 * kappa):  # micro-batches of 8, over which batch norm takes its statistics
            drawn = torch.randint(len(images), (8,))
            loss = torch.nn.functional.cross_entropy(model(images[drawn]), labels[drawn])
            (loss / (2 * kappa)).backward()
            noise.accumulate()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step_update(step + 1)
    with torch.no_grad():
        return torch.nn.functional.cross_entropy(model.eval()(images), labels).item(), noise


before, noise = train(1)
largest = noise.largest_kappa()
print(f"batches up to {16 * largest:.0f} lag behind the run at 16 by at most 10%")
kappa = 2 ** int(math.log2(largest))
if kappa == 1:
    print("so stay at 16")
else:
    print(f"loss {train(kappa)[0]:.3f} at {16 * kappa}, {before:.3f} at 16")
