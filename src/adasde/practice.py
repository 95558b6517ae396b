"""For training that is not ours: rescale an optimizer in place, the loss of SVAG, and how large a batch may become."""

import copy
import math

import torch

from . import lag, noise, optim, scaling
from .errors import InputError
from .recipe import shortened
from .svag import coefficients

ADAM, NADAM = (torch.optim.Adam, optim.Adam), (torch.optim.NAdam,)
RMSPROP = (torch.optim.RMSprop, optim.RMSprop)
RATES = ("lr", "initial_lr", "max_lr", "min_lr")  # of a parameter group; the others are a scheduler's


def rescale(optimizer, kappa: float, rule: str = "sqrt", scheduler=None):
    """Change ``optimizer`` in place for a batch ``kappa`` times as large, by the square-root rule or another.

    For torch's Adam, AdamW, NAdam and RMSprop, and ours, in all parameter groups; decay is scaled where it is
    decoupled. The running averages are kept: they estimate moments of the gradient, of which those of a larger batch
    differ by its smaller noise, and forget the difference as soon as any average does. Counts of steps, from which the
    averages' bias is corrected, are divided by kappa, so that the correction goes on where it was.

    A ``scheduler`` of torch that holds rates of the optimizer must be given, and has them changed as well; its numbers
    of steps stay: make it with those of `scaled_steps`, or its decays come kappa times too late. InputError, before
    anything is changed, for an optimizer, an option of it or a kappa that the rule does not cover; ScalingWarning as
    for `Adam.scaled`.
    """
    if scheduler is None and any("initial_lr" in group for group in optimizer.param_groups):
        raise InputError("scheduler: one holds rates of this optimizer, and would put them back; give it as well")
    changes = [_scaled_group(optimizer, group, kappa, rule) for group in optimizer.param_groups]
    factor = kappa ** scaling.rule_named(rule).lr
    for group, change in zip(optimizer.param_groups, changes, strict=True):
        group.update(change)
        for name in RATES:
            if isinstance(group.get(name), torch.Tensor):
                group[name].mul_(factor)  # in place, since captured graphs hold it
            elif name in group:
                group[name] *= factor
    for state in optimizer.state.values():
        if "step" in state:
            state["step"] = state["step"] / kappa
    _rescale_scheduler(scheduler, factor)


def scaled_steps(steps: int, kappa: float) -> int:
    """Return what becomes of a count of optimizer steps, such as a warm-up's: steps / kappa, at least 1 if not 0."""
    return shortened(scaling.whole("steps", steps, least=0), scaling.positive("kappa", kappa))


def rescale_arguments(arguments, kappa: float, rule: str = "sqrt"):
    """Return a copy of transformers' TrainingArguments for a batch ``kappa`` times as large.

    The batch grows by ``gradient_accumulation_steps``, so memory does not. Learning rate, betas, epsilon, the decoupled
    weight decay, clipping, warm-up and the length in steps follow; lengths in epochs and in shares of the run stay.
    InputError for optimizers other than AdamW.
    """
    kind = str(getattr(arguments.optim, "value", arguments.optim))
    if not kind.startswith("adamw"):
        raise InputError(f"optim = {kind!r}: must be one of transformers' adamw")
    whole = scaling.scaled_batch_size(arguments.gradient_accumulation_steps, kappa)
    old = scaling.Adam(
        arguments.learning_rate,
        arguments.adam_beta1,
        arguments.adam_beta2,
        arguments.adam_epsilon,
        arguments.weight_decay,
        decoupled=True,
    )
    new, powers, changed = old.scaled(kappa, rule), scaling.rule_named(rule), copy.copy(arguments)
    changed.gradient_accumulation_steps = whole
    changed.learning_rate, changed.adam_beta1, changed.adam_beta2 = new.lr, new.beta1, new.beta2
    changed.adam_epsilon, changed.weight_decay = new.eps, new.weight_decay
    if arguments.max_grad_norm:
        changed.max_grad_norm = arguments.max_grad_norm * kappa**powers.clip
    if arguments.max_steps > 0:
        changed.max_steps = shortened(arguments.max_steps, kappa)
    if arguments.warmup_steps >= 1:  # below 1 it is a share of the run
        changed.warmup_steps = shortened(arguments.warmup_steps, kappa)
    options = arguments.lr_scheduler_kwargs
    if isinstance(options, dict):
        counts = {name for name in options if name.endswith("_steps") or name == "timescale"}
        changed.lr_scheduler_kwargs = {n: shortened(v, kappa) if n in counts else v for n, v in options.items()}
    return changed


def svag_loss(losses: torch.Tensor, ell: float) -> torch.Tensor:
    """Return the loss, a scalar, whose gradient is that of SVAG at level ``ell``.

    ``losses`` are those of single examples, shape (2 * minibatch,): two independent minibatches, one after the other.
    The optimizer takes steps of SVAG with the hyperparameters ``Adam(...).svag(ell)``, ell^2 for one of a plain run. A
    model with batch norm must see the minibatches apart: call it within ``svag.minibatches_apart(model)``.
    """
    half, odd = divmod(len(losses), 2)
    if odd or not half or losses.dim() != 1:
        raise InputError(f"losses = {tuple(losses.shape)}: must be two minibatches of equal size, in one dimension")
    first, second = coefficients(ell)
    return first * losses[:half].mean() + second * losses[half:].mean()


class NoiseMonitor:
    """Measures the gradient's noise while any loop trains, and tells how large its batch may become.

    Call it after every optimizer step with the number of steps so far; every ``every`` steps it takes the gradients of
    ``chunks``, and it has taken those of the start. ``loss(model, *chunk)`` is the mean loss of a chunk, a tuple of
    tensors; chunks are independent samples of the training data, at least two and better twenty, 1,000 examples
    together. The model is in eval mode meanwhile. ``batch_size`` is the loop's, so sigma = 1 / sqrt(batch_size); after
    `rescale` it takes a new monitor. InputError for optimizers that the rule does not cover.
    """

    def __init__(self, model, optimizer, batch_size: int, loss, chunks, every: int):
        for group in optimizer.param_groups:
            _scaled_group(optimizer, group, 1.0, "sqrt")  # refuses what the rule does not cover
        self.model, self.optimizer, self.loss, self.memory = model, optimizer, loss, _memory(optimizer)
        self.batch_size = scaling.whole("batch_size", batch_size, least=1)
        self.every, self.chunks = scaling.whole("every", every, least=1), list(chunks)
        self.step, self.times, self.speeds = 0, [], []
        self._measure(0.0)

    def __call__(self, step: int):
        """Note that ``step`` steps have been taken; measure if it is time to."""
        if step >= self.step + self.every:
            if _memory(self.optimizer) != self.memory:
                raise InputError("NoiseMonitor: the optimizer was rescaled; make a new one with the new batch_size")
            rate = self.optimizer.param_groups[0]["lr"]
            # SDE time goes by lr^2 a step. Between two measurements the rate is taken to be what it is now.
            self._measure(self.times[-1] + (step - self.step) * float(rate) ** 2)
            self.step = step

    def lags(self) -> dict[float, float]:
        """Return by which share of the time so far larger batches would have fallen behind: kappa -> lag."""
        if len(self.times) < 2:
            raise InputError("NoiseMonitor: has measured the start alone; train for more steps, or measure more often")
        times = torch.tensor(self.times).numpy()
        return {
            kappa: float(lag.predicted(times, torch.tensor([speeds[kappa] for speeds in self.speeds]).numpy())[-1])
            for kappa in noise.KAPPAS
        }

    def largest_kappa(self) -> float:
        """Return the largest kappa that keeps within 10% of this run, and no beta below 0.5, where the rule ends.

        It is that of the training so far, and not rounded: the batch is a whole number.
        """
        safe = lag.safe_kappa({kappa: [value] for kappa, value in self.lags().items()})
        betas = [float(beta) for group in self.optimizer.param_groups for beta in _betas(group)]
        return min([safe, *(0.5 / (1.0 - beta) for beta in betas if beta > 0)])

    def _measure(self, time):
        training, eps = self.model.training, self.optimizer.param_groups[0]["eps"]
        self.model.eval()
        try:
            _, gradient = noise.measure(self.model, self.loss, self.chunks)
        finally:
            self.model.train(training)
        self.speeds.append(gradient.speeds(noise.KAPPAS, self.batch_size**-0.5, eps))
        self.times.append(time)

    def callback(self):
        """Return this as a callback of transformers' Trainer."""
        from transformers import TrainerCallback

        class Noise(TrainerCallback):
            def on_step_end(this, arguments, state, control, **_):  # noqa: N805, since self is the monitor
                self(state.global_step)

        return Noise()


def _memory(optimizer):
    """What only a rescaling changes; a scheduler may cycle beta1."""
    return [(float(_betas(group)[-1]), float(group["eps"])) for group in optimizer.param_groups]


def _betas(group):
    if "betas" in group:
        return group["betas"]
    if "beta1" in group:
        return group["beta1"], group["beta2"]
    return (group["alpha"] if "alpha" in group else group["beta"],)


def _scaled_group(optimizer, group, kappa, rule):
    """What becomes of a group, but for its rates."""
    name = type(optimizer).__name__
    if not isinstance(optimizer, (*ADAM, *NADAM, *RMSPROP)):
        raise InputError(f"optimizer = {name}: must be torch's Adam, AdamW, NAdam or RMSprop")
    for option in ("amsgrad", "centered", "momentum"):
        if group.get(option):
            raise InputError(f"{option} = {group[option]}: the rule is for {name} without")
    decay = float(group["weight_decay"])
    if isinstance(optimizer, RMSPROP):
        key = "alpha" if "alpha" in group else "beta"
        new = scaling.RMSprop(1.0, group[key], group["eps"], decay).scaled(kappa, rule)
        return {key: new.beta, "eps": new.eps}
    decoupled = bool(group.get("decoupled", group.get("decoupled_weight_decay", False)))
    beta1, beta2 = (float(beta) for beta in _betas(group))
    if beta1 == 0.0:  # RMSprop, as torch and the authors run it
        found = scaling.RMSprop(1.0, beta2, group["eps"], decay).scaled(kappa, rule)
        decay *= kappa ** scaling.rule_named(rule).decay if decoupled else 1.0
        new = scaling.Adam(found.lr, 0.0, found.beta, found.eps, decay)
    else:
        new = scaling.Adam(1.0, beta1, beta2, group["eps"], decay, decoupled).scaled(kappa, rule)
    betas = {"betas": (new.beta1, new.beta2)} if "betas" in group else {"beta1": new.beta1, "beta2": new.beta2}
    change = {**betas, "eps": new.eps, "weight_decay": new.weight_decay}
    if "momentum_decay" in group:  # NAdam's, per step
        change["momentum_decay"] = group["momentum_decay"] * kappa
    return change


def _rescale_scheduler(scheduler, factor):
    if scheduler is None:
        return
    for inner in getattr(scheduler, "_schedulers", ()):
        _rescale_scheduler(inner, factor)
    for name in ("base_lrs", "min_lrs", "_last_lr"):
        if hasattr(scheduler, name):
            setattr(scheduler, name, [rate * factor for rate in getattr(scheduler, name)])
    if math.isfinite(getattr(scheduler, "eta_min", math.nan)):
        scheduler.eta_min *= factor
