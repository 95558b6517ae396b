"""For the Trainer of transformers: its arguments for a batch four times as large, and the noise while it trains."""

import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import adasde

torch.manual_seed(0)
text = torch.randint(64, (1024, 32))
for place in range(1, 32):  # half of the tokens follow from the one before
    text[:, place] = torch.where(torch.rand(1024) < 0.5, (text[:, place - 1] + 1) % 64, text[:, place])
examples = [{"input_ids": row, "labels": row} for row in text]


def train(arguments, monitored=False):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_positions=32, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    )
    trainer = Trainer(model, arguments, train_dataset=examples)
    if not monitored:
        return trainer.train(), None
    trainer.create_optimizer()
    chunks = [(torch.stack([example["input_ids"] for example in examples[n : n + 16]]),) for n in range(0, 320, 16)]
    batch = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    monitor = adasde.NoiseMonitor(
        model, trainer.optimizer, batch, lambda model, ids: model(input_ids=ids, labels=ids).loss, chunks, every=16
    )
    trainer.add_callback(monitor.callback())
    return trainer.train(), monitor


with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        folder, per_device_train_batch_size=8, learning_rate=2e-3, adam_beta1=0.95, adam_beta2=0.98, max_steps=96,
        lr_scheduler_type="constant", save_strategy="no", report_to=[], disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )  # fmt: skip
    before, monitor = train(arguments, monitored=True)
    print(f"batches up to {8 * monitor.largest_kappa():.0f} keep the training within 10% of the one at 8")
    larger = adasde.rescale_arguments(arguments, 4)
    print(f"at 32: lr {larger.learning_rate:g}, beta1 {larger.adam_beta1:g}, beta2 {larger.adam_beta2:g}, "
          f"{larger.max_steps} steps of {larger.gradient_accumulation_steps} parts")  # fmt: skip
    after, _ = train(larger)
    print(f"mean loss {before.training_loss:.2f} at 8, {after.training_loss:.2f} at 32")
