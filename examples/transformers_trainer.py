"""transformers' Trainer: measure the gradient's noise in one run, then train at the largest batch that it allows."""

import math
import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PrinterCallback, Trainer, TrainingArguments

import adasde

torch.set_num_threads(1)  # so small a model is fastest on one
torch.manual_seed(0)
text = torch.randint(32, (2560, 24))
for place in range(1, 24):  # half of the tokens follow from the one before
    text[:, place] = torch.where(torch.rand(2560) < 0.5, (text[:, place - 1] + 1) % 32, text[:, place])
examples = [{"input_ids": row, "labels": row} for row in text]
small = GPT2Config(vocab_size=32, n_positions=24, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)


def train(arguments, measure=False):
    """Return the loss on all examples after the training, and the noise if it was measured."""
    torch.manual_seed(0)
    trainer = Trainer(GPT2LMHeadModel(small), arguments, train_dataset=examples, eval_dataset=examples)
    trainer.remove_callback(PrinterCallback)
    callback = adasde.trainer_callback(trainer, every=1)  # the run is short: measure every step
    if measure:
        trainer.add_callback(callback)
    trainer.train()
    return trainer.evaluate()["eval_loss"], callback.noise


with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        folder, per_device_train_batch_size=4, gradient_accumulation_steps=2, learning_rate=2e-3, adam_beta2=0.99,
        warmup_steps=50, num_train_epochs=2, lr_scheduler_type="cosine", save_strategy="no", report_to=[],
        disable_tqdm=True, use_cpu=not torch.cuda.is_available(),
    )  # fmt: skip
    before, noise = train(arguments, measure=True)
    largest = noise.largest_kappa()
    print(f"batches up to {8 * largest:.0f} lag behind the run at 8 by at most 10%")
    kappa = 2 ** int(math.log2(largest))
    if kappa == 1:
        print("so stay at 8")
    else:
        larger = adasde.rescale_arguments(arguments, kappa)
        after, _ = train(larger)
        print(f"loss {after:.3f} at {8 * kappa} with lr {larger.learning_rate:.2g}, {before:.3f} at 8")
