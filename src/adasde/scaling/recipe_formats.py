"""The formats in which frameworks keep recipes: by which keys each is known, and where it keeps each part.

`adasde.scaling.recipe_files` reads and writes them all. Keys are dotted, as in `adasde.scaling.documents`.
"""

import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from adasde.common import InputError
from adasde.scaling.documents import Place, number_of, path_of, value_at


@dataclass
class Draft:
    """A recipe while it is read."""

    document: Mapping[str, Any]
    optimizer: str
    defaults: dict[str, Any]
    values: dict[str, Any] = field(default_factory=dict)
    places: dict[str, tuple[Place, ...]] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    assumed: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Format:
    """Where a framework keeps the parts of a recipe.

    Args:
        title: Name for people.
        whose: Whose defaults it takes.
        marks: Keys, any of which tells a document to be of this format.
        keys: By part, the keys that may hold it; what is left out is written to the first.
        optimizers: By the framework's name of an optimizer, in lower case, ours.
        advice: The framework's name of AdamW.
        rates: Keys of further learning rates.
        counts: Keys of further numbers of steps.
        defaults: Defaults that are not torch's, by part; None for what must not be left out.
        harmless: Keys that sound like a rate or a number of steps, and need no change.
        schedules: Keys under which every number counts as one of these, unless it is harmless.
        special: Function that completes a draft with what only this framework does, given the batch.
        strict: Whether other keys are refused.
    """

    title: str
    whose: str
    marks: tuple[str, ...]
    keys: Mapping[str, tuple[str, ...]]
    optimizers: Mapping[str, str]
    advice: str
    rates: tuple[str, ...] = ()
    counts: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    harmless: frozenset[str] = frozenset()
    schedules: tuple[str, ...] = ()
    special: Callable[[Draft, int], None] | None = None
    strict: bool = False


def _deepspeed(draft: Draft, batch: int) -> None:
    name = value_at(draft.document, "optimizer.type").lower()
    if name == "adam" and value_at(draft.document, "optimizer.params.adam_w_mode") is False:
        draft.optimizer = "adam"  # whose decay is AdamW's otherwise
    if name in ("adam", "adamw") and not value_at(draft.document, "optimizer.params.torch_adam"):
        draft.defaults["weight_decay"] = 0.0
    schedule = value_at(draft.document, "scheduler.type")
    if schedule == "OneCycle" and value_at(draft.document, "scheduler.params.cycle_momentum") is not False:
        why = "OneCycle moves beta1, which the rule cannot follow"
        raise InputError(f"scheduler.params.cycle_momentum: {why}; set it to false")
    warms_up = schedule in ("WarmupLR", "WarmupDecayLR", "WarmupCosineLR")
    if warms_up and value_at(draft.document, "scheduler.params.warmup_num_steps") is None:
        draft.defaults["warmup_steps"] = 1000
    if schedule not in ("WarmupLR", "WarmupDecayLR"):  # which set the rate themselves
        return
    key = "scheduler.params.warmup_max_lr"
    if key not in draft.rates:
        draft.rates[key] = draft.assumed[key] = 1e-3
        draft.places[key] = (path_of(key),)
    top, rate = draft.rates[key], draft.values["lr"]
    if rate not in (None, top):
        draft.notes.append(f"DeepSpeed trains with {key} = {top:g}, not with optimizer.params.lr = {rate:g}")


def _timm(draft: Draft, batch: int) -> None:
    values, document = draft.values, draft.document
    if document.get("model_ema") is not True:
        values["average"] = None
    if values["momentum"] is None:
        values["momentum"] = 0.9  # timm's default, which its RMSprop takes
    if values["lr"]:
        return
    base, size = (
        number_of(key, value_at(document, key) or usual) for key, usual in (("lr_base", 0.1), ("lr_base_size", 256))
    )
    scale = document.get("lr_base_scale") or ("linear" if draft.optimizer == "rmsprop" else "sqrt")
    if scale not in ("sqrt", "linear"):
        raise InputError(f"lr_base_scale = {reprlib.repr(scale)}: must be sqrt or linear")
    if size < 1:
        raise InputError(f"lr_base_size = {size:g}: must be a whole number >= 1")
    values["lr"] = base * (batch / size) ** (0.5 if scale == "sqrt" else 1.0)
    draft.notes.append(
        f"lr = {values['lr']:.6g} is lr_base = {base:g} at {size:g}, scaled by timm ({scale}) to {batch}"
    )


def _torchtune(draft: Draft, batch: int) -> None:
    if draft.document.get("optimizer_in_bwd") is True:
        draft.notes.append("optimizer_in_bwd = true does not go with accumulation; write the recipe by per_device")


def _axolotl(draft: Draft, batch: int) -> None:
    if draft.document.get("batch_size") is not None:
        given = reprlib.repr(draft.document["batch_size"])
        raise InputError(f"batch_size = {given}: axolotl advises against it; give gradient_accumulation_steps instead")


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


_TORCH_NAMES = {f"torch.optim.{name}": name for name in ("adam", "adamw", "nadam", "rmsprop")}
_TRAINER_NAMES = (
    "adamw_torch", "adamw_torch_fused", "adamw_torch_xla", "adamw_torch_npu_fused", "adamw_apex_fused", "adamw_hf",
    "adamw_anyprecision", "adamw",
)  # fmt: skip
_TRAINER_RATES = ("lr_scheduler_kwargs.min_lr", "lr_scheduler_kwargs.max_lr", "lr_scheduler_kwargs.lr_end")
_TRAINER_COUNTS = (
    "save_steps", "eval_steps", "logging_steps", "lr_scheduler_kwargs.timescale",
    "lr_scheduler_kwargs.num_warmup_steps", "lr_scheduler_kwargs.num_training_steps",
    "lr_scheduler_kwargs.num_stable_steps", "lr_scheduler_kwargs.num_decay_steps",
)  # fmt: skip
_TRAINER_HARMLESS = frozenset({
    "warmup_ratio", "eval_accumulation_steps", "torch_empty_cache_steps", "num_cycles", "power", "min_lr_rate",
    "min_lr_ratio", "warmup_lr_rate", "factor", "threshold", "last_epoch", "beta", "dpo_beta", "rl_beta",
})  # fmt: skip
_TRAINER_KEYS = {
    "lr": ("learning_rate",),
    "beta1": ("adam_beta1",),
    "beta2": ("adam_beta2",),
    "eps": ("adam_epsilon",),
    "weight_decay": ("weight_decay",),
    "accumulation": ("gradient_accumulation_steps",),
    "steps": ("max_steps",),
    "warmup_steps": ("warmup_steps",),
    "clip": ("max_grad_norm",),
}


def _options(prefix: str) -> dict[str, tuple[str, ...]]:
    """Return where the arguments of torch's optimizers are kept, all under one key."""
    names = {"eps": "eps", "weight_decay": "weight_decay", "beta": "alpha", "decoupled": "decoupled_weight_decay"}
    names |= _same("momentum_decay", "momentum", "amsgrad", "centered")
    keys = {part: (f"{prefix}.{name}",) for part, name in names.items()}
    return {"lr": (f"{prefix}.lr",), "beta1": (f"{prefix}.betas.0",), "beta2": (f"{prefix}.betas.1",), **keys}


FORMATS = {
    "adasde": Format(
        title="our own keys",
        whose="torch's",
        marks=(),
        keys={
            "optimizer": ("optimizer",),
            "lr": ("lr", "learning_rate"),
            "beta1": ("beta1", "adam_beta1", "betas.0"),
            "beta2": ("beta2", "adam_beta2", "betas.1"),
            "beta": ("beta", "alpha"),
            "eps": ("eps", "epsilon", "adam_epsilon"),
            "weight_decay": ("weight_decay", "wd"),
            "decoupled": ("decoupled",),
            "batch_size": ("batch_size", "global_batch_size", "total_batch_size", "train_batch_size"),
            "per_device": ("micro_batch_size", "per_device_batch_size"),
            "accumulation": ("gradient_accumulation_steps", "accumulation_steps", "grad_accum_steps"),
            "devices": ("devices", "num_devices", "world_size"),
            "steps": ("steps", "max_steps", "total_steps"),
            "warmup_steps": ("warmup_steps", "num_warmup_steps"),
            "milestones": ("milestones",),
            "clip": ("clip", "max_grad_norm", "clip_grad_norm", "grad_clip"),
            "average": ("average", "ema_decay"),
            "momentum_decay": ("momentum_decay",),
        },
        optimizers=_same("adam", "adamw", "nadam", "rmsprop")
        | _TORCH_NAMES
        | {"adamw_torch": "adamw", "adamw_torch_fused": "adamw"},
        advice="adamw",
        rates=("min_lr",),
        counts=("save_steps", "eval_steps", "logging_steps"),
        strict=True,
    ),
    "transformers": Format(
        title="transformers' TrainingArguments",
        whose="transformers'",
        marks=("per_device_train_batch_size", "num_train_epochs", "lr_scheduler_type", "optim"),
        keys=_TRAINER_KEYS
        | {
            "optimizer": ("optim", "optimizer"),
            "per_device": ("per_device_train_batch_size", "per_gpu_train_batch_size"),
        },
        optimizers=dict.fromkeys(_TRAINER_NAMES, "adamw"),
        advice="adamw_torch",
        rates=_TRAINER_RATES,
        counts=_TRAINER_COUNTS,
        defaults={"optimizer": "adamw_torch", "per_device": 8, "lr": 5e-5, "weight_decay": 0.0, "clip": 1.0},
        harmless=_TRAINER_HARMLESS,
        schedules=("lr_scheduler_kwargs",),
    ),
    "deepspeed": Format(
        title="DeepSpeed's configuration",
        whose="DeepSpeed's",
        marks=("optimizer.type", "train_micro_batch_size_per_gpu", "zero_optimization", "gradient_clipping"),
        keys=_options("optimizer.params")
        | {
            "optimizer": ("optimizer.type",),
            "batch_size": ("train_batch_size",),
            "per_device": ("train_micro_batch_size_per_gpu",),
            "accumulation": ("gradient_accumulation_steps",),
            "steps": ("scheduler.params.total_num_steps",),
            "warmup_steps": ("scheduler.params.warmup_num_steps",),
            "clip": ("gradient_clipping",),
        },
        optimizers={"adam": "adamw", "adamw": "adamw", "nadam": "nadam", "rmsprop": "rmsprop"},
        advice="AdamW",
        rates=tuple(
            f"scheduler.params.{name}"
            for name in ("warmup_min_lr", "warmup_max_lr", "cycle_min_lr", "cycle_max_lr", "lr_range_test_min_lr")
        ),
        counts=(
            "steps_per_print", "scheduler.params.cycle_first_step_size", "scheduler.params.cycle_second_step_size",
            "scheduler.params.decay_step_size", "scheduler.params.lr_range_test_step_size",
        ),
        harmless=frozenset({
            "zero_optimization", "fp16", "bf16", "amp", "activation_checkpointing", "flops_profiler", "autotuning",
            "aio", "tensorboard", "wandb", "csv_monitor", "comms_logger", "checkpoint", "elasticity",
            "warmup_min_ratio", "cos_min_ratio", "decay_lr_rate", "lr_range_test_step_rate", "cycle_first_stair_count",
            "cycle_second_stair_count", "cycle_min_mom", "cycle_max_mom", "decay_mom_rate", "last_batch_iteration",
        }),
        schedules=("scheduler.params",),
        special=_deepspeed,
    ),
    "timm": Format(
        title="timm's args.yaml",
        whose="timm's",
        marks=("opt", "opt_betas", "opt_eps", "sched"),
        keys=_options("opt_kwargs")
        | {
            "optimizer": ("opt",),
            "lr": ("lr",),
            "beta1": ("opt_betas.0",),
            "beta2": ("opt_betas.1",),
            "eps": ("opt_eps",),
            "weight_decay": ("weight_decay",),
            "momentum": ("momentum",),
            "caution": ("opt_kwargs.caution",),
            "per_device": ("batch_size",),
            "accumulation": ("grad_accum_steps",),
            "devices": ("world_size",),
            "clip": ("clip_grad",),
            "average": ("model_ema_decay",),
        },
        optimizers=_same("adam", "adamw", "nadam", "rmsprop") | {"fusedadam": "adam", "fusedadamw": "adamw"},
        advice="adamw",
        rates=("min_lr", "warmup_lr"),
        defaults={"optimizer": "sgd", "per_device": 128, "weight_decay": 2e-5, "beta": 0.9},
        harmless=frozenset({
            "lr_base", "lr_base_size", "lr_noise", "lr_noise_pct", "lr_noise_std", "lr_cycle_mul", "lr_cycle_decay",
            "lr_cycle_limit", "lr_k_decay", "lr_stable_timescale", "layer_decay", "layer_decay_min_scale", "decay_rate",
            "decay_epochs", "decay_milestones", "warmup_epochs", "log_interval", "recovery_interval", "beta",
        }),
        special=_timm,
    ),
    "torchtune": Format(
        title="torchtune's configuration",
        whose="torch's",
        marks=("optimizer._component_",),
        keys=_options("optimizer")
        | {
            "optimizer": ("optimizer._component_",),
            "per_device": ("batch_size",),
            "accumulation": ("gradient_accumulation_steps",),
            "warmup_steps": ("lr_scheduler.num_warmup_steps",),
            "clip": ("clip_grad_norm",),
        },
        optimizers=_TORCH_NAMES,
        advice="torch.optim.AdamW",
        counts=(
            "max_steps_per_epoch", "save_every_n_steps", "run_val_every_n_steps", "log_every_n_steps",
            "lr_scheduler.num_training_steps",
        ),
        harmless=frozenset({"profiler", "checkpointer", "model", "num_cycles", "last_epoch"}),
        schedules=("lr_scheduler",),
        special=_torchtune,
    ),
    "axolotl": Format(
        title="axolotl's configuration",
        whose="axolotl's",
        marks=("base_model", "num_epochs", "sequence_len", "sample_packing", "adapter"),
        keys=_TRAINER_KEYS | {"optimizer": ("optimizer",), "per_device": ("micro_batch_size",)},
        optimizers=dict.fromkeys(_TRAINER_NAMES, "adamw"),
        advice="adamw_torch",
        rates=(*_TRAINER_RATES, "embedding_lr", "loraplus_lr_embedding", "lr_groups.*.lr"),
        counts=_TRAINER_COUNTS,
        defaults={"optimizer": "adamw_torch", "per_device": 1, "lr": None, "weight_decay": 0.0, "clip": 1.0},
        harmless=_TRAINER_HARMLESS
        | {
            "cosine_min_lr_ratio", "cosine_constant_lr_ratio", "loraplus_lr_ratio", "embedding_lr_scale",
            "lr_div_factor", "profiler_steps",
        },
        schedules=("lr_scheduler_kwargs",),
        special=_axolotl,
    ),
}  # fmt: skip
