"""What transformers' Trainer takes: arguments for a larger batch, and callbacks."""

import pytest

from adasde.common import InputError
from adasde.scaling.callbacks import after_each_step, rescale_arguments
from adasde.scaling.hyperparameters import AdamHyperparameters


def test_training_arguments(tmp_path):
    from transformers import TrainingArguments

    old = TrainingArguments(
        output_dir=str(tmp_path), learning_rate=1e-3, adam_beta1=0.9, adam_beta2=0.98, weight_decay=0.1,
        max_steps=1000, warmup_steps=100, gradient_accumulation_steps=2, max_grad_norm=1.0, report_to=[],
    )  # fmt: skip
    new = rescale_arguments(old, 4)
    wanted = AdamHyperparameters(1e-3, 0.9, 0.98, 1e-8, 0.1, decoupled=True).scaled(4)
    found = (new.learning_rate, new.adam_beta1, new.adam_beta2, new.adam_epsilon, new.weight_decay)
    assert found == pytest.approx((wanted.lr, wanted.beta1, wanted.beta2, wanted.eps, wanted.weight_decay))
    assert (new.max_steps, new.warmup_steps, new.gradient_accumulation_steps, new.max_grad_norm) == (250, 25, 8, 0.5)
    assert new.per_device_train_batch_size == old.per_device_train_batch_size
    assert old.learning_rate == 1e-3
    with pytest.raises(InputError, match="optim = 'adafactor': must be one of transformers' adamw"):
        rescale_arguments(TrainingArguments(output_dir=str(tmp_path), optim="adafactor", report_to=[]), 4)
    with pytest.raises(InputError, match=r"kappa = 0.3: batch size 2 would become 0.6"):
        rescale_arguments(old, 0.3)


def test_a_callback_hears_of_every_optimizer_step():
    from transformers import TrainerControl, TrainerState

    steps = []
    callback = after_each_step(steps.append)
    for number in (1, 2):
        callback.on_step_end(None, TrainerState(global_step=number), TrainerControl(), model=None)
    assert steps == [1, 2]
