"""Speed of language-model training as ratios within one process, interleaved: third part of `make bench`.

step     our training step / a bare forward-backward-step of the same model on one fixed batch
trainer  transformers' Trainer on the same model, data and optimizer, without logging or saving / ours
masked   a step of RoBERTa with the head on masked tokens alone / with the head on all tokens
"""

import statistics
import sys
import tempfile
import warnings
from pathlib import Path

import torch

from adasde.experiments.artifacts import device_name
from adasde.experiments.documents import read
from adasde.experiments.plan import plan
from adasde.scaling.rules import ScalingWarning
from adasde.training.loop import keep_memory
from adasde.training.run import Run
from adasde.workloads.data.registry import prepare
from adasde.workloads.registry import load_workload
from training import ROOT, ratio, seconds

ROUNDS = 9
SEQUENCES = 512  # per round and contestant


class Blocks(torch.utils.data.Dataset):
    """Sequences of tokens as Trainer's examples."""

    def __init__(self, workload):
        self.workload = workload

    def __len__(self):
        return self.workload.size

    def __getitem__(self, index):
        inputs, _ = self.workload.gather(torch.tensor([index]))
        return {"input_ids": inputs[0], "labels": inputs[0]}  # the model shifts them


def trainer(spec, workload, folder):
    """Return a function that trains as many sequences by transformers' Trainer."""
    from transformers import PrinterCallback, Trainer, TrainingArguments

    h = spec.optimizer
    arguments = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=spec.batch_size,
        max_steps=SEQUENCES // spec.batch_size,
        learning_rate=h.lr,
        adam_beta1=h.beta1,
        adam_beta2=h.beta2,
        adam_epsilon=h.eps,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        optim="adamw_torch_fused",
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        dataloader_num_workers=0,
    )
    model = workload.model()

    def train():
        loop = Trainer(model=model, args=arguments, train_dataset=Blocks(workload))
        loop.remove_callback(PrinterCallback)
        loop.train()

    return train


def bare(spec, workload):
    """Return a function of as many steps on one fixed batch, with the run's own model and optimizer."""
    run = Run(spec, workload)
    batch = workload.gather(*run.sampler.draw(spec.batch_size))

    def steps():
        for _ in range(SEQUENCES // spec.batch_size):
            run.optimizer.zero_grad()
            workload.loss(run.model, *batch).backward()
            run.optimizer.step()

    return steps


def full_head(spec, workload):
    """Return a function of as many steps of RoBERTa whose head is applied to all tokens."""
    run = Run(spec, workload)
    inputs, places, targets = workload.gather(*run.sampler.draw(spec.batch_size))
    labels = torch.full_like(inputs, -100).scatter(1, places, targets)

    def steps():
        for _ in range(SEQUENCES // spec.batch_size):
            run.optimizer.zero_grad()
            run.model(input_ids=inputs, labels=labels).loss.backward()
            run.optimizer.step()

    return steps


def timed(contestants):
    """Seconds per round of each contestant, interleaved."""
    for function in contestants.values():
        function()  # warm
    return [{name: seconds(function) for name, function in contestants.items()} for _ in range(ROUNDS)]


def main():
    """Print the table."""
    keep_memory()
    warnings.simplefilter("ignore", ScalingWarning)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "results/data"
    prepare("wiki-mini", root)
    runs = plan(read(ROOT / "workflow/config/mini.yaml")).runs
    gpt2, roberta = (load_workload(name, root) for name in ("wiki-gpt2", "wiki-roberta"))
    print(f"\n{device_name()}, one thread; medians of {ROUNDS} interleaved rounds")
    print(f"{'gpt2':22}{'step (<= 1.05)':>24}{'trainer (>= 1.05)':>24}{'tokens/s':>12}")
    for kappa in (1, 4, 16):
        spec = runs[f"gpt2-adam.sqrt.k{kappa}.s0"]
        ours = Run(spec, gpt2)
        with tempfile.TemporaryDirectory() as folder:
            rounds = timed(
                {
                    "bare": bare(spec, gpt2),
                    "ours": lambda ours=ours, spec=spec: ours.advance(SEQUENCES // spec.batch_size),
                    "trainer": trainer(spec, gpt2, folder),
                }
            )
        speed = SEQUENCES * gpt2.length / statistics.median(r["ours"] for r in rounds)
        cells = f"{ratio(rounds, 'ours', 'bare'):>24}{ratio(rounds, 'trainer', 'ours'):>24}{speed:>12,.0f}"
        print(f"{f'B = {ours.drawn}':22}{cells}", flush=True)
    print(f"{'roberta, head':22}{'masked alone / all':>24}")
    for kappa in (1, 16):
        spec = runs[f"roberta-adam.sqrt.k{kappa}.s0"]
        rounds = timed({"masked": bare(spec, roberta), "full": full_head(spec, roberta)})
        print(f"{'B = ' + str(spec.batch_size):22}{ratio(rounds, 'masked', 'full'):>24}", flush=True)


if __name__ == "__main__":
    main()
