"""What transformers' Trainer takes: arguments for a larger batch, and callbacks."""

import math
import sys
from functools import partial
from importlib import import_module
from types import ModuleType, SimpleNamespace

import pytest
import torch

from adasde.common import InputError
from adasde.scaling.callbacks import (
    TrainerNoise,
    after_each_step,
    lightning_callback,
    rescale_arguments,
    trainer_callback,
)
from adasde.scaling.hyperparameters import AdamHyperparameters
from adasde.scaling.micro_batches import MicroBatchNoise
from adasde.scaling.monitor import NoiseMonitor
from adasde.scaling.rules import ScalingWarning

LIGHTNINGS = ("lightning.pytorch", "pytorch_lightning")


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
    with pytest.raises(InputError, match=r"kappa = 0.3: batch size 16 would become 4.8"):
        rescale_arguments(old, 0.3)
    with pytest.raises(InputError, match=r"gradient_accumulation_steps = 2 would become 3.5, which is not whole"):
        rescale_arguments(old, 1.75)
    with pytest.raises(InputError, match="rule = 'invariant': needs adasde.InvariantAdam"):
        rescale_arguments(old, 4, "invariant")


def arguments(folder, **values):
    from transformers import TrainingArguments

    return TrainingArguments(output_dir=str(folder), report_to=[], **values)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"min_lr": 1e-5}, {"min_lr": 2e-5}),
        ({"lr_end": 1e-6, "power": 2.0}, {"lr_end": 2e-6, "power": 2.0}),
        ({"min_lr_rate": 0.1, "num_cycles": 0.5}, {"min_lr_rate": 0.1, "num_cycles": 0.5}),
        ({"num_decay_steps": 100, "num_stable_steps": 30}, {"num_decay_steps": 25, "num_stable_steps": 8}),
        ({"timescale": 10_000}, {"timescale": 2_500}),
    ],
)
def test_r8_the_rates_and_lengths_of_the_schedule_follow(given, wanted, tmp_path):
    old = arguments(tmp_path, lr_scheduler_kwargs=dict(given))
    new = rescale_arguments(old, 4)
    assert new.lr_scheduler_kwargs == wanted
    assert old.lr_scheduler_kwargs == given


@pytest.mark.parametrize(
    ("kappa", "given", "wanted"),
    [
        (4, {"max_steps": 1000, "save_steps": 200, "eval_steps": 100, "logging_steps": 10}, (250, 50, 25, 2)),
        (4, {"save_steps": 0.1, "eval_steps": 0.05, "logging_steps": 0.01}, (-1, 0.1, 0.05, 0.01)),
        (4, {"save_steps": 2, "eval_steps": 1, "logging_steps": 1}, (-1, 2, 1, 1)),
        (3, {"save_steps": 500, "eval_steps": 100}, (-1, 165, 33, 167)),  # save_steps stays a multiple
        (3, {"save_steps": 100, "eval_steps": 500}, (-1, 33, 167, 167)),
        (0.5, {"max_steps": 1000, "save_steps": 200, "eval_steps": 100}, (2000, 400, 200, 1000)),
    ],
)
def test_r9_steps_between_saves_evaluations_and_logs_follow(kappa, given, wanted, tmp_path):
    new = rescale_arguments(arguments(tmp_path, gradient_accumulation_steps=2, **given), kappa)
    assert (new.max_steps, new.save_steps, new.eval_steps, new.logging_steps) == wanted


def test_the_batch_can_grow_on_each_device(tmp_path):
    old = arguments(tmp_path, per_device_train_batch_size=6, gradient_accumulation_steps=2)
    new = rescale_arguments(old, 4 / 3, by="per_device")
    assert (new.per_device_train_batch_size, new.gradient_accumulation_steps) == (8, 2)
    with pytest.raises(InputError, match="so would by = per_device, which makes per_device_train_batch_size 8"):
        rescale_arguments(old, 4 / 3)
    with pytest.raises(InputError, match="by = 'devices': must be accumulation or per_device"):
        rescale_arguments(old, 2, by="devices")


def test_half_life_betas_carry_the_default_adam_to_16(tmp_path):
    old = arguments(tmp_path)
    new = rescale_arguments(old, 16, betas="half-life")
    assert (new.adam_beta1, new.adam_beta2) == pytest.approx((0.9**16, 0.999**16), rel=1e-13)
    assert new.learning_rate == pytest.approx(4 * old.learning_rate, rel=1e-13)
    with pytest.raises(InputError, match="too large for beta1 = 0.9"):
        rescale_arguments(old, 16)


@pytest.mark.parametrize("kind", ["adamw_torch", "adamw_torch_fused"])
def test_torchs_adamw_is_covered(kind, tmp_path):
    assert rescale_arguments(arguments(tmp_path, optim=kind), 4).learning_rate == pytest.approx(1e-4)


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("adafactor", "optim = 'adafactor': must be one of adamw_torch, adamw_torch_fused, .*; use adamw_torch$"),
        ("lion_32bit", "optim = 'lion_32bit': must be one of"),
        ("sgd", "optim = 'sgd': must be one of"),
        ("rmsprop", "optim = 'rmsprop': must be one of"),  # transformers can set neither its beta nor its eps
        ("stable_adamw", "optim = 'stable_adamw': must be one of"),
        ("adamw_bnb_8bit", "optim = 'adamw_bnb_8bit': its state is quantised or paged .*; use adamw_torch$"),
        ("adamw_8bit", "optim = 'adamw_8bit': its state is quantised"),
        ("adamw_torch_8bit", "optim = 'adamw_torch_8bit': its state is quantised"),
        ("adamw_torch_4bit", "optim = 'adamw_torch_4bit': its state is quantised"),
        ("paged_adamw_32bit", "optim = 'paged_adamw_32bit': its state is quantised or paged"),
        ("paged_adamw_8bit", "optim = 'paged_adamw_8bit': its state is quantised"),
    ],
)
def test_other_optimizers_are_refused_by_name(kind, line, tmp_path):
    old = arguments(tmp_path)
    old.optim = kind
    with pytest.raises(InputError, match=line):
        rescale_arguments(old, 4)


def test_numbers_that_stay_are_named(tmp_path):
    old = arguments(tmp_path, eval_delay=100, lr_scheduler_kwargs={"gamma": 0.5})
    with pytest.warns(ScalingWarning, match="number of steps: lr_scheduler_kwargs.gamma = 0.5, eval_delay = 100"):
        new = rescale_arguments(old, 4)
    assert new.eval_delay == 100


def test_kappa_and_back(tmp_path):
    old = arguments(tmp_path, max_steps=1000, warmup_steps=100, weight_decay=0.1, lr_scheduler_kwargs={"min_lr": 1e-6})
    back = rescale_arguments(rescale_arguments(old, 4), 0.25)
    for name, value in vars(old).items():
        if isinstance(value, float):
            assert getattr(back, name) == pytest.approx(value, rel=1e-11), name
        elif isinstance(value, int):
            assert getattr(back, name) == value, name
    assert back.lr_scheduler_kwargs["min_lr"] == pytest.approx(1e-6, rel=1e-13)


def test_a_callback_hears_of_every_optimizer_step():
    from transformers import TrainerControl, TrainerState

    steps = []
    callback = after_each_step(steps.append)
    for number in (1, 2):
        callback.on_step_end(None, TrainerState(global_step=number), TrainerControl(), model=None)
    assert steps == [1, 2]


class Model(torch.nn.Module):
    """A linear model in the form that transformers' Trainer and Lightning's train."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(5, 3)

    def forward(self, x, labels):
        return {"loss": torch.nn.functional.cross_entropy(self.linear(x), labels)}


def examples(count):
    generator = torch.Generator().manual_seed(1)
    x, labels = torch.randn(count, 5, generator=generator), torch.randint(3, (count,), generator=generator)
    return [{"x": row, "labels": label} for row, label in zip(x, labels, strict=True)]


def train(folder, count=64, callback=None, **values):
    """Train by transformers' Trainer, 4 micro-batches of 4 in each step, the examples in their order."""
    from transformers import Trainer, TrainerCallback

    class InOrder(Trainer):
        def _get_train_sampler(self, *_, **__):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    class Reporter(TrainerCallback):
        """As those of W&B and TensorBoard."""

        def on_log(self, args, state, control, logs=None, **kwargs):
            reported.append(dict(logs))

    reported, options = [], {
        "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "learning_rate": 1e-2, "use_cpu": True,
        "disable_tqdm": True, "save_strategy": "no", "logging_steps": 2, "num_train_epochs": 2, **values,
    }  # fmt: skip
    trainer = InOrder(Model(), arguments(folder, **options), train_dataset=examples(count), callbacks=[Reporter()])
    if callback is not None:
        callback = callback(trainer)
        trainer.add_callback(callback)
    trainer.train()
    return SimpleNamespace(model=trainer.model, log=trainer.state.log_history, reported=reported, callback=callback)


def by_hand(steps, every, clip=None):
    """The same training and measurement as a plain loop; 4 steps make an epoch."""
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2, weight_decay=0.0)
    noise, data = MicroBatchNoise(optimizer, 4, every), examples(64)
    for step in range(steps):
        for part in range(4):
            first = (16 * step + 4 * part) % 64
            x, labels = (torch.stack([row[name] for row in data[first : first + 4]]) for name in ("x", "labels"))
            (model(x, labels)["loss"] / 4).backward()
            noise.accumulate()
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
    return noise


def test_the_noise_in_trainer_is_that_of_a_plain_loop(tmp_path):
    """Gradients are clipped before a callback of Trainer's sees them; a clip this small would leave nothing of them."""
    done = train(
        tmp_path, callback=partial(trainer_callback, every=1), num_train_epochs=5, max_grad_norm=1e-3,
        lr_scheduler_type="constant",
    )  # fmt: skip
    found, wanted = done.callback.noise, by_hand(20, 1, clip=1e-3)
    for mine, right in zip(sum(found.per_weight(), []), sum(wanted.per_weight(), []), strict=True):
        assert torch.allclose(mine, right, rtol=1e-5, atol=1e-7)
    assert [row["step"] for row in found.history] == [10, 20]
    logged = [entry for entry in done.log if "critical_batch" in entry]
    assert [entry["step"] for entry in logged] == [10, 20]
    assert logged[-1]["largest_kappa"] == pytest.approx(wanted.largest_kappa(), rel=1e-4)
    assert logged[-1]["critical_batch"] == pytest.approx(wanted.critical_batch(), rel=1e-4)
    assert sum("critical_batch" in entry for entry in done.reported) == 2


def test_trainer_trains_and_logs_as_without_the_callback(tmp_path):
    plain, watched = train(tmp_path), train(tmp_path, callback=partial(trainer_callback, every=1), logging_steps=2)
    for mine, right in zip(watched.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(mine, right)
    losses = [[entry["loss"] for entry in run.log if "loss" in entry] for run in (watched, plain)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4


def test_a_log_of_the_noise_does_not_take_the_place_of_the_loss(tmp_path):
    done = train(tmp_path, callback=partial(trainer_callback, every=1), num_train_epochs=5, logging_steps=10)
    assert [entry["step"] for entry in done.log if "loss" in entry] == [10, 20]
    assert [entry["step"] for entry in done.log if "critical_batch" in entry] == [10, 20]


@pytest.mark.parametrize("count", [64 + 12, 64 + 14])  # a step of 3 micro-batches, a micro-batch of 2
def test_steps_at_the_end_of_an_epoch_that_are_short_are_left_out(count, tmp_path):
    done = train(tmp_path, count=count, callback=partial(trainer_callback, every=1), num_train_epochs=5)
    assert done.callback.noise.history[-1]["step"] == 20
    assert done.log[-1]["step"] == 25
    assert all(math.isfinite(value) for value in done.callback.noise.history[-1].values() if value == value)


def test_a_trainer_without_accumulation_needs_a_monitor(tmp_path):
    with pytest.raises(InputError, match="accumulation = 1: the noise is measured from 2 or more micro-batches"):
        train(tmp_path, callback=trainer_callback, gradient_accumulation_steps=1)
    data = examples(512)
    x, labels = (torch.stack([row[name] for row in data]) for name in ("x", "labels"))
    chunks = list(zip(x.split(32), labels.split(32), strict=True))

    def callback(trainer):
        return trainer_callback(
            trainer,
            lambda optimizer: NoiseMonitor(
                trainer.model, optimizer, 4, lambda model, x, labels: model(x, labels)["loss"], chunks, every=8
            ),
        )

    done = train(tmp_path, callback=callback, gradient_accumulation_steps=1)
    logged = [entry for entry in done.log if "critical_batch" in entry]
    assert [entry["step"] for entry in logged] == [1, 8, 16, 24, 32]
    assert ["largest_kappa" in entry for entry in logged] == [False, True, True, True, True]


def test_trainer_can_train_again_and_in_bfloat16(tmp_path):
    made = []

    def twice(trainer):
        made.append(trainer)
        return trainer_callback(trainer, every=1)

    done = train(tmp_path, callback=twice, bf16=True, num_train_epochs=3)
    first = done.callback.noise
    made[0].train()
    assert done.callback.noise is not first
    assert done.callback.noise.history[0]["step"] == 10
    assert made[0].training_step.__self__ is made[0]


def test_steps_that_the_scaler_skips_are_left_out():
    model, scaler = Model(), torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    noise, data = TrainerNoise(optimizer, 4, 1, scaler=scaler), examples(64)
    for step in range(8):
        for part in range(2):
            x, labels = (
                torch.stack([row[name] for row in data[8 * step + 4 * part :][:4]]) for name in ("x", "labels")
            )
            loss = model(x, labels)["loss"] / 2
            scaler.scale(loss * math.inf if (step, part) == (3, 1) else loss).backward()
            noise.accumulate()
        if step == 3:
            with pytest.warns(RuntimeWarning, match="left out a step after step 3"):
                noise.end_step(2)
        else:
            noise.end_step(2)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert optimizer.state[model.linear.weight]["step"] == 7
    assert noise.state_dict()["step"] == 7
    assert all(bool(part.isfinite().all()) for parts in noise.per_weight() for part in parts)


class StandIn:
    """A Trainer that calls the hooks in the order in which Lightning's does, for where Lightning is not installed.

    The last backward pass of a step is made within the optimizer's step, by its closure.
    """

    HOOKS = ("train_start", "train_batch_start", "after_backward", "before_optimizer_step", "train_batch_end")

    def __init__(self, max_epochs, accumulate_grad_batches, logger, callbacks=(), gradient_clip_val=None, **_):
        self.epochs, self.accumulate_grad_batches, self.loggers = max_epochs, accumulate_grad_batches, [logger]
        self.callbacks, self.clip, self.global_step = callbacks, gradient_clip_val, 0
        self.precision_plugin, self.strategy = SimpleNamespace(), SimpleNamespace(model=None)

    def call(self, hook, *arguments):
        for callback in self.callbacks:
            getattr(callback, f"on_{hook}")(self, self.module, *arguments)

    def fit(self, module, loader):
        self.module, self.optimizers = module, [module.configure_optimizers()]
        self.call("train_start")
        for index, batch in (pair for _ in range(self.epochs) for pair in enumerate(loader)):
            self.call("train_batch_start", batch, index)
            if (index + 1) % self.accumulate_grad_batches and index + 1 < len(loader):
                self.backward(batch, index)
            else:
                self.optimizers[0].step(partial(self.closure, batch, index))
                self.global_step += 1
            self.call("train_batch_end", None, batch, index)

    def backward(self, batch, index):
        loss = self.module.training_step(batch, index) / self.accumulate_grad_batches
        if index % self.accumulate_grad_batches == 0:
            self.optimizers[0].zero_grad()
        loss.backward()
        self.call("after_backward")
        return loss

    def closure(self, batch, index):
        loss = self.backward(batch, index)
        self.call("before_optimizer_step", self.optimizers[0])
        if self.clip:
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.clip)
        return loss


@pytest.fixture(params=[*LIGHTNINGS, "stand-in"])
def pl(request, monkeypatch):
    """One of Lightning's two packages, or what stands in for them."""
    name = request.param
    if name == "stand-in":
        name, hooks = LIGHTNINGS[0], {f"on_{hook}": lambda *_: None for hook in StandIn.HOOKS}
        module, loggers = ModuleType(name), ModuleType(f"{name}.loggers.logger")
        module.Callback, loggers.Logger = type("Callback", (), hooks), object
        module.LightningModule, module.Trainer = torch.nn.Module, StandIn
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setitem(sys.modules, loggers.__name__, loggers)
    else:
        module = pytest.importorskip(name)
    for other in LIGHTNINGS:
        if other != name:
            monkeypatch.delitem(sys.modules, other, raising=False)
    return module


def fit(pl, folder, count=64, epochs=5, accumulate=4, **values):
    """Train by Lightning's Trainer, as `train` does."""

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = Model()

        def training_step(self, batch, index):
            return self.model(batch["x"], batch["labels"])["loss"]

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), 1e-2, weight_decay=0.0)

    class Logger(import_module(f"{pl.__name__}.loggers.logger").Logger):
        name, version = "test", 0

        def log_metrics(self, metrics, step=None):
            if "critical_batch" in metrics:
                logged.append({"step": step, **metrics})

        def log_hyperparams(self, *_, **__):
            pass

    logged, module = [], Module()
    trainer = pl.Trainer(
        max_epochs=epochs, accumulate_grad_batches=accumulate, accelerator="cpu", logger=Logger(),
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, default_root_dir=folder,
        **values,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(examples(count), batch_size=4))
    return module, logged


def test_the_noise_in_lightning_is_that_of_a_plain_loop(pl, tmp_path):
    callback = lightning_callback(every=1)
    _, logged = fit(pl, tmp_path, callbacks=[callback], gradient_clip_val=1e-3)
    found, wanted = callback.noise, by_hand(20, 1, clip=1e-3)
    for mine, right in zip(sum(found.per_weight(), []), sum(wanted.per_weight(), []), strict=True):
        assert torch.allclose(mine, right, rtol=1e-5, atol=1e-7)
    assert [row["step"] for row in found.history] == [10, 20]
    assert [row["step"] for row in logged] == [10, 20]
    assert logged[-1]["largest_kappa"] == pytest.approx(wanted.largest_kappa(), rel=1e-4)
    assert logged[-1]["critical_batch"] == pytest.approx(wanted.critical_batch(), rel=1e-4)


@pytest.mark.parametrize("count", [64 + 12, 64 + 14])
def test_lightning_trains_as_without_the_callback_and_short_steps_are_left_out(pl, count, tmp_path):
    callback = lightning_callback(every=1)
    (plain, _), (watched, _) = fit(pl, tmp_path, count), fit(pl, tmp_path, count, callbacks=[callback])
    for mine, right in zip(watched.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, right)
    assert [row["step"] for row in callback.noise.history] == [10, 20]


def test_lightning_without_accumulation_needs_a_monitor(pl, tmp_path):
    with pytest.raises(InputError, match="accumulation = 1"):
        fit(pl, tmp_path, accumulate=1, callbacks=[lightning_callback()])


def test_lightning_has_to_be_imported_before(monkeypatch):
    for name in LIGHTNINGS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(InputError, match=r"lightning: import lightning.pytorch or pytorch_lightning first"):
        lightning_callback()
