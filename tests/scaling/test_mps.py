"""Apple's MPS has no float64: the tools work there. A Mac is simulated by tensors that refuse what MPS refuses."""

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

import adasde
from adasde.scaling import optimizers
from adasde.scaling.svag import SVAGLoss


class Mps(torch.Tensor):
    """A tensor that says it is on MPS, has no float64, and meets no tensor of the CPU; ``held`` has its numbers."""

    device = property(lambda self: torch.device("mps"))
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held):
        options = {"dtype": held.dtype, "strides": held.stride(), "storage_offset": held.storage_offset()}
        return torch.Tensor._make_wrapper_subclass(cls, held.shape, **options)

    def __init__(self, held):
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        given = []

        def held(value):
            if type(value) is torch.Tensor and value.dim():
                raise RuntimeError(
                    "Expected all tensors to be on the same device, but found at least two, mps and cpu!"
                )
            if isinstance(value, Mps):
                given.append(value)
            return value.held if isinstance(value, Mps) else value

        def shown(value):
            own = next((tensor for tensor in given if tensor.held is value), None)  # changed in place
            return on_mps(value) if own is None and isinstance(value, torch.Tensor) else value if own is None else own

        return tree_map(shown, function(*tree_map(held, args), **tree_map(held, kwargs or {})))


def on_mps(tensor):
    if tensor.dtype == torch.float64:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")
    return Mps(tensor)


class ToCPU(torch.autograd.Function):
    """What `.cpu()` does for the simulated tensor."""

    @staticmethod
    def forward(ctx, tensor):
        return tensor.held.detach()

    @staticmethod
    def backward(ctx, gradient):
        return on_mps(gradient)


class Mac(TorchFunctionMode):
    """Lets torch's functions make and move the simulated tensors."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), getattr(function, "__name__", "")
        if name in ("cpu", "numpy", "tolist") and isinstance(args[0], Mps):
            return getattr(ToCPU.apply(args[0]), name)()
        places = [value for value in [*args, kwargs.get("device")] if isinstance(value, torch.device)]
        if not places and name == "to" and isinstance(args[1], torch.Tensor):
            places, args = [args[1].device], (args[0], args[1].dtype, *args[2:])
        if not places:
            return function(*args, **kwargs)
        args = tuple(value for value in args if not isinstance(value, torch.device))
        kwargs.pop("device", None)
        if name == "to" and isinstance(args[0], Mps) and places[0].type == "cpu":
            args = (ToCPU.apply(args[0]), *args[1:])
        found = function(*args, **kwargs) if len(args) > 1 or kwargs or name != "to" else args[0]
        return on_mps(found) if places[0].type == "mps" and not isinstance(found, Mps) else found


def same(tensor):
    return tensor


class Task:
    """A regression with noisy labels; ``place`` puts tensors on a device."""

    def __init__(self, place):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))
        for module in self.model.modules():
            for name, p in module.named_parameters(recurse=False):
                module.register_parameter(name, nn.Parameter(place(p.detach())))
            for name, buffer in module.named_buffers(recurse=False):
                module.register_buffer(name, place(buffer))
        x = torch.randn(400, 5)
        y = x.sum(1, keepdim=True) + 5.0 * torch.randn(400, 1)
        self.chunks = [(place(a), place(b)) for a, b in zip(x.split(16), y.split(16), strict=True)]

    def train(self, optimizer, after=lambda step: None, before=lambda: None, parts=1):
        """Take ten steps of ``parts`` micro-batches; return the sums of the weights, and of the running averages."""
        for step in range(10):
            for x, y in self.chunks[parts * step % 24 :][:parts]:
                (self.loss(self.model, x, y) / parts).backward()
                before()
            optimizer.step()
            optimizer.zero_grad()
            after(step + 1)
        return [value.detach().cpu().double().sum().item() for value in self.model.state_dict().values()]

    @staticmethod
    def loss(model, x, y, weights=None):
        losses = (model(x) - y).square().mean(1)
        return losses.mean() if weights is None else (weights.to(losses.dtype) * losses).sum()


def rescaled(task, make):
    optimizer = make(task.model.parameters())
    task.train(optimizer)
    adasde.rescale(optimizer, 4)
    return task.train(optimizer)


def monitored(task):
    optimizer = torch.optim.Adam(task.model.parameters(), lr=1e-3, betas=(0.98, 0.99))
    monitor = adasde.NoiseMonitor(task.model, optimizer, 16, task.loss, task.chunks[-6:], every=2)
    return [*task.train(optimizer, after=monitor), monitor.largest_kappa(), monitor.gradient_noise_scale()]


def accumulated(task):
    optimizer = torch.optim.Adam(task.model.parameters(), lr=1e-3, betas=(0.98, 0.99))
    noise = adasde.MicroBatchNoise(optimizer, micro_batch_size=16, every=1)
    weights = task.train(optimizer, before=noise.accumulate, parts=2)
    return [*weights, noise.largest_kappa(), noise.gradient_noise_scale(), noise.critical_batch()]


def invariant(task):
    optimizer = adasde.InvariantAdam(task.model.parameters(), micro_batches=2)
    return task.train(optimizer, before=optimizer.accumulate, parts=2)


def svag(task):
    task.loss = SVAGLoss(task.loss, ell=3)
    return task.train(torch.optim.Adam(task.model.parameters()))


def weighted_svag(task):
    x, y = task.chunks[0]
    losses = (task.model(x) - y).square().mean(1)
    loss = adasde.svag_loss(losses, 3, weights=losses.detach().abs())
    loss.backward()
    return [loss.item(), *(p.grad.cpu().double().sum().item() for p in task.model.parameters())]


TOOLS = {
    "rescale Adam": lambda task: rescaled(task, lambda p: torch.optim.Adam(p, betas=(0.9, 0.99))),
    "rescale AdamW": lambda task: rescaled(task, lambda p: torch.optim.AdamW(p, lr=torch.tensor(1e-3), foreach=False)),
    "rescale NAdam": lambda task: rescaled(task, torch.optim.NAdam),
    "rescale RMSprop": lambda task: rescaled(task, torch.optim.RMSprop),
    "RMSprop": lambda task: rescaled(task, optimizers.RMSprop),
    "NoiseMonitor": monitored,
    "MicroBatchNoise": accumulated,
    "InvariantAdam": invariant,
    "SVAG": svag,
    "svag_loss": weighted_svag,
}


@pytest.mark.filterwarnings("ignore:noise:adasde.scaling.rules.ScalingWarning")  # measured on 96 examples
@pytest.mark.parametrize("tool", TOOLS.values(), ids=TOOLS)
def test_c22_mps_gives_what_the_cpu_gives(tool):
    wanted = tool(Task(same))
    with Mac():
        found = tool(Task(on_mps))
    assert found == pytest.approx(wanted, rel=1e-6)


def test_the_simulated_mac_refuses_float64_and_tensors_of_the_cpu():
    with Mac():
        tensor = on_mps(torch.ones(3))
        for wrong in (tensor.double, lambda: tensor.sum(dtype=torch.float64), lambda: tensor.to(torch.float64)):
            with pytest.raises(TypeError, match="doesn't support float64"):
                wrong()
        with pytest.raises(TypeError, match="doesn't support float64"):
            torch.zeros(3, dtype=torch.float64, device=tensor.device)
        with pytest.raises(RuntimeError, match="same device"):
            tensor + torch.ones(3)
        assert tensor.cpu().double().sum() == tensor.to(torch.device("cpu")).sum() == 3
