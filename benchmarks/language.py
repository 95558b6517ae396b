"""Speed of language-model training as ratios within one process, interleaved: third part of `make bench`.

step     our training step / a bare forward-backward-step of the same model on one fixed batch
run      a whole run of the mini scale with its evaluations / (its steps x the bare step)
share    of a whole run that its evaluations take
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
from adasde.scaling.rules import ScalingWarning
from adasde.training.loop import keep_memory
from adasde.training.run import Run
from adasde.workloads.data.registry import prepare
from adasde.workloads.registry import load_workload
from training import ROOT, SIZES, bare, changed, interleaved, mini, ratio, whole_run

ROUNDS = 9
SEQUENCES = 256  # per round and contestant


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


def main():
    """Print the table."""
    keep_memory()
    warnings.simplefilter("ignore", ScalingWarning)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "results/data"
    prepare("wiki-mini", root)
    gpt2, roberta = (load_workload(name, root) for name in ("wiki-gpt2", "wiki-roberta"))
    print(f"\n{device_name()}, one thread; medians of {ROUNDS} interleaved rounds")
    print(f"{'gpt2':22}{'step (<= 1.03)':>24}{'trainer (>= 1.05)':>24}{'tokens/s':>12}")
    for size in SIZES:
        spec, steps = changed(mini("wiki-gpt2"), size), SEQUENCES // size
        ours, fixed = Run(spec, gpt2), bare(spec, gpt2)
        with tempfile.TemporaryDirectory() as folder:
            contestants = {
                "bare": lambda fixed=fixed, steps=steps: fixed(steps),
                "ours": lambda ours=ours, steps=steps: ours.advance(steps),
                "trainer": trainer(spec, gpt2, folder),
            }
            rounds = interleaved(contestants, ROUNDS)
        speed = SEQUENCES * gpt2.length / statistics.median(r["ours"] for r in rounds)
        cells = f"{ratio(rounds, 'ours', 'bare'):>24}{ratio(rounds, 'trainer', 'ours'):>24}{speed:>12,.0f}"
        print(f"{f'B = {size}':22}{cells}", flush=True)
    print(f"{'gpt2':22}{'run (<= 1.2)':>24}{'share (<= 20%)':>24}")
    for kappa in (1, 4, 16):
        whole, share = whole_run(mini("wiki-gpt2", kappa=kappa), gpt2)
        print(f"{f'kappa = {kappa}':22}{whole:>24.3f}{100 * share:>23.1f}%", flush=True)
    print(f"{'roberta, head':22}{'masked alone / all':>24}")
    for size in (8, 128):
        spec, steps = changed(mini("wiki-roberta"), size), SEQUENCES // size
        fixed = bare(spec, roberta)
        contestants = {
            "masked": lambda fixed=fixed, steps=steps: fixed(steps),
            "full": full_head(spec, roberta),
        }
        rounds = interleaved(contestants, ROUNDS)
        print(f"{f'B = {size}':22}{ratio(rounds, 'masked', 'full'):>24}", flush=True)


if __name__ == "__main__":
    main()
