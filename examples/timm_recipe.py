"""A recipe of timm for a batch four times as large: parameter groups with and without decay, and a schedule."""

import timm
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2

import adasde

torch.manual_seed(0)
images = torch.randn(512, 3, 64, 64)
labels = images[:, 0].mean((1, 2)).gt(0).long()
images += labels[:, None, None, None] / 4


def train(kappa):
    """Train for 4 epochs at batch size 16 kappa, by the recipe for 16."""
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=2, in_chans=3)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=5e-4, weight_decay=0.05, betas=(0.9, 0.98))
    adasde.rescale(optimizer, kappa)  # before the schedule is made, which reads its rates
    size, epoch = 16 * kappa, adasde.scaled_steps(512 // 16, kappa)
    schedule, epochs = create_scheduler_v2(
        optimizer, sched="cosine", num_epochs=4, warmup_epochs=1, warmup_lr=1e-6 * kappa**0.5,
        min_lr=1e-5 * kappa**0.5, updates_per_epoch=epoch, step_on_epochs=False,
    )  # fmt: skip
    for step in range(epochs * epoch):
        drawn = torch.randint(512, (size,))
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images[drawn]), labels[drawn])
        loss.backward()
        optimizer.step()
        schedule.step_update(step + 1)
    return optimizer, loss.item()


for kappa in (1, 4):
    optimizer, loss = train(kappa)
    beta1, beta2 = optimizer.param_groups[0]["betas"]
    print(f"at {16 * kappa}: beta1 {beta1:g}, beta2 {beta2:g}, last loss {loss:.3f}")
