"""DDP, two processes: measure the gradient's noise over the ranks, then go on at the largest batch that it allows."""

import math
import tempfile

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import adasde

torch.manual_seed(0)
inputs, teacher = torch.randn(36_000, 20), nn.Sequential(nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 10))
labels = torch.distributions.Categorical(logits=10 * teacher(3 * inputs).detach()).sample()
held, examples, first = slice(32_000, None), 32_000, 14_080  # examples in all, and before the change


def train(rank, ranks, meeting_point):
    torch.set_num_threads(1)  # so small a model is fastest on one
    distributed.init_process_group("gloo", f"file://{meeting_point}/ranks", rank=rank, world_size=ranks)
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 10)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    seen, own = 0, 4  # examples of all ranks; per step and rank
    noise = adasde.MicroBatchNoise(optimizer, micro_batch_size=own, every=1, ddp=model)  # a short run: every step
    while seen < examples:
        part = slice(seen + rank * own, seen + (rank + 1) * own)
        nn.functional.cross_entropy(model(inputs[part]), labels[part]).backward()
        noise.accumulate()
        optimizer.step()
        optimizer.zero_grad()
        seen += ranks * own
        if seen == first:  # every rank has the same answer, since they share the gradients
            largest = noise.critical_batch()
            kappa = 2 ** int(math.log2(min(max(largest / 8, 1), 16)))  # half-life betas were right up to 16 in our runs
            adasde.rescale(optimizer, kappa, betas="half-life")
            own *= kappa
            noise.rescaled(kappa, micro_batch_size=own)
            if rank == 0:
                print(f"batches up to {largest:.0f} are as good as 8, so go on at {own * ranks}")
    if rank == 0:
        with torch.no_grad():
            print(f"loss {nn.functional.cross_entropy(model(inputs[held]), labels[held]).item():.4f} at the end")
    distributed.destroy_process_group()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(train, (2, folder), nprocs=2)
