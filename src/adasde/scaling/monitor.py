"""TO DESCRIBE."""

import torch

from adasde.common import InputError, whole
from adasde.scaling import gradient_noise, lag
from adasde.scaling.rescale import betas_of, scaled_group


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
            scaled_group(optimizer, group, 1.0, "sqrt")  # refuses what the rule does not cover
        self.model, self.optimizer, self.loss, self.memory = model, optimizer, loss, _memory(optimizer)
        self.batch_size = whole("batch_size", batch_size, least=1)
        self.every, self.chunks = whole("every", every, least=1), list(chunks)
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
            for kappa in gradient_noise.KAPPAS
        }

    def largest_kappa(self) -> float:
        """Return the largest kappa that keeps within 10% of this run, and no beta below 0.5, where the rule ends.

        It is that of the training so far, and not rounded: the batch is a whole number.
        """
        safe = lag.safe_kappa({kappa: [value] for kappa, value in self.lags().items()})
        betas = [float(beta) for group in self.optimizer.param_groups for beta in betas_of(group)]
        return min([safe, *(0.5 / (1.0 - beta) for beta in betas if beta > 0)])

    def _measure(self, time):
        training, eps = self.model.training, self.optimizer.param_groups[0]["eps"]
        self.model.eval()
        try:
            _, gradient = gradient_noise.measure(self.model, self.loss, self.chunks)
        finally:
            self.model.train(training)
        self.speeds.append(gradient.speeds(gradient_noise.KAPPAS, self.batch_size**-0.5, eps))
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
    return [(float(betas_of(group)[-1]), float(group["eps"])) for group in optimizer.param_groups]
