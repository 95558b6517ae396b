"""Lightning: measure the gradient's noise in one run, then train at the largest batch that it allows."""

import logging
import math
import sys
import tempfile
import warnings

import torch
from torch import nn

import adasde

try:
    import lightning.pytorch as pl
except ModuleNotFoundError:
    sys.exit("lightning: is not installed; pip install lightning")

torch.set_num_threads(1)  # so small a model is fastest on one
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning")
torch.manual_seed(0)
inputs, teacher = torch.randn(25_000, 20), nn.Sequential(nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 10))
labels = torch.distributions.Categorical(logits=10 * teacher(3 * inputs).detach()).sample()
examples = torch.utils.data.TensorDataset(inputs[:20_480], labels[:20_480])
h = adasde.AdamHyperparameters(lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01, decoupled=True)


class Module(pl.LightningModule):
    def __init__(self, h):
        super().__init__()
        self.h, self.model = h, nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self):
        h = self.h
        return torch.optim.AdamW(self.parameters(), h.lr, (h.beta1, h.beta2), h.eps, h.weight_decay)


def train(h, micro_batches, **options):
    """Train for an epoch, and return the loss on other examples."""
    torch.manual_seed(0)
    module = Module(h)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=1, accumulate_grad_batches=micro_batches, accelerator="cpu", default_root_dir=folder,
            logger=False, enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False, **options,
        )  # fmt: skip
        trainer.fit(module, torch.utils.data.DataLoader(examples, batch_size=4, shuffle=True))
    with torch.no_grad():
        return nn.functional.cross_entropy(module.model(inputs[20_480:]), labels[20_480:]).item()


callback = adasde.lightning_callback(every=1)  # the run is short: measure every step
before = train(h, 2, callbacks=[callback])
largest = callback.noise.largest_kappa()
kappa = 2 ** int(math.log2(largest))
print(f"batches up to {8 * largest:.0f} lag behind the run at 8 by at most 10%, so train at {8 * kappa}")
print(f"loss {train(h.scaled(kappa), 2 * kappa):.4f} at {8 * kappa}, {before:.4f} at 8")
