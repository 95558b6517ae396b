"""Engines: how the operations of a training step are carried out. They differ in speed, and in rounding.

=======  ==============================================================================================================
eager    one operation after another, as torch takes them
compile  torch.compile makes one program of a pass, forward and back; the optimizer's update stays torch's fused one
graph    a CUDA graph of the whole step: passes, clipping and update are launched by a single call
=======  ==============================================================================================================

The random streams are the same under every engine, and so is what a checkpoint holds.
"""

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn

from adasde.common import InputError
from adasde.scaling.svag import SVAGLoss
from adasde.training import distributed
from adasde.workloads.base import Workload

Batch = tuple[Tensor, ...]
# Takes a step on the batches of its passes, at a learning rate if it is given one; returns the sum of its losses.
Take = Callable[..., Tensor]

WARM = 3  # steps before a CUDA graph is captured, in which cuDNN and cuBLAS choose their algorithms: torch's number


class Objective(nn.Module):
    """A loss as a module around the model, so that what wraps modules sees every pass."""

    def __init__(self, model: nn.Module, loss: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, *batch: Tensor) -> Tensor:
        """Return the loss of ``batch``, a scalar."""
        return self.loss(self.model, *batch)


class Eager:
    """The engine ``eager``, and what the others change of it."""

    joins_minibatches = True  # whether both minibatches of SVAG may share a pass

    def objective(self, model: nn.Module, workload: Workload, ell: float) -> Callable[..., Tensor]:
        """Return the loss of a pass as a function of its batch.

        Args:
            model: The model.
            workload: Whose loss it is.
            ell: SVAG level of a pass over two minibatches; 1 for a pass over examples of one.
        """
        loss = workload.loss if ell == 1 else SVAGLoss(workload.loss, ell)
        if distributed.world_size() == 1:  # calling no module saves 2 % of a step of the small CNN on two images
            return partial(loss, model)
        return distributed.data_parallel(Objective(model, loss))

    def step(self, take: Take, batches: Iterable[Batch], rate: float) -> Tensor:
        """Take a step on the ``batches`` of its passes; return the sum of its losses.

        Args:
            take: Takes the step.
            batches: Of every pass.
            rate: Learning rate of the step, which the optimizer has as well.
        """
        return take(batches)

    def failed(self, error: Exception) -> InputError | None:
        """Return what to tell the user of an error in a pass that is this engine's; None for others."""
        return None


class Compiled(Eager):
    """The engine ``compile``.

    Compiled code cannot keep two minibatches apart in one pass, so a step of SVAG is two passes.
    """

    joins_minibatches = False

    def objective(self, model: nn.Module, workload: Workload, ell: float) -> Callable[..., Tensor]:  # noqa: D102
        config = torch._dynamo.config  # which torch imports here
        # A job's runs share what is compiled. Beyond this number of batch sizes, torch would go on without compiling.
        config.recompile_limit = max(config.recompile_limit, config.accumulated_recompile_limit)
        objective = Objective(model, workload.compiled_loss)
        # Dropout draws from torch's own generator, as under the other engines, and shapes never change.
        objective.compile(dynamic=False, options={"fallback_random": True})
        return distributed.data_parallel(objective)

    def failed(self, error: Exception) -> InputError | None:  # noqa: D102
        if not isinstance(error, torch._dynamo.exc.TorchDynamoException):
            return None
        lines = [line.strip() for line in str(error).splitlines()]
        # torch begins with "backend='inductor' raised:".
        reason = next((line for line in lines if line and not line.endswith("raised:")), type(error).__name__)
        return InputError(f"engine = 'compile': torch cannot compile this workload here ({reason}); take eager")


class Graphed(Eager):
    """The engine ``graph``.

    The first steps of a process are taken one operation after another. Then one is captured, without being taken, and
    replayed from there on, on inputs that lie where the captured ones lay.
    """

    def __init__(self) -> None:
        self.taken, self.inputs, self.rate = 0, list[Batch](), torch.empty(0)
        self.graph: CUDAGraph | None = None

    def step(self, take: Take, batches: Iterable[Batch], rate: float) -> Tensor:  # noqa: D102
        batches = list(batches)
        if self.graph is None:
            self.inputs = [tuple(map(torch.empty_like, batch)) for batch in batches]
            self.rate = torch.empty((), device=batches[0][0].device)
            self.graph = CUDAGraph(self.rate.device)
        for own, given in zip(self.inputs, batches, strict=True):
            for place, tensor in zip(own, given, strict=True):
                place.copy_(tensor)
        self.rate.fill_(rate)
        whole = partial(take, self.inputs, self.rate)
        if self.taken < WARM:
            self.taken += 1
            return self.graph.run(whole)
        if self.taken == WARM:
            self.taken += 1
            self.graph.capture(whole)
        return self.graph.replay()


class CUDAGraph:
    """The operations of a function on a GPU, captured once and replayed as often as wanted.

    Args:
        device: The GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream, self.captured = torch.cuda.Stream(device), torch.cuda.CUDAGraph()

    def run(self, function: Callable[[], Tensor]) -> Tensor:
        """Call ``function`` on the stream of the capture, where autograd keeps what it needs for another call."""
        current = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            result = function()
        current.wait_stream(self.stream)
        return result

    def capture(self, function: Callable[[], Tensor]) -> None:
        """Capture what ``function`` asks of the GPU. Nothing is computed.

        Raises:
            InputError: If it waits for the GPU, which a graph cannot.
        """
        current = torch.cuda.current_stream(self.stream.device)
        try:
            # Other threads, such as the one that pins the memory of decoded images, may go on meanwhile.
            with torch.cuda.graph(self.captured, stream=self.stream, capture_error_mode="thread_local"):
                self.result = function()
        except Exception as error:
            torch.cuda.set_stream(current)  # torch does not leave the stream where ending the capture fails
            # Where ending it fails, that hides the error because of which it was ended.
            cause = error if isinstance(error, InputError) else error.__context__ or error
            if isinstance(cause, InputError | torch.OutOfMemoryError) or not isinstance(cause, RuntimeError):
                raise cause from None
            reason = str(cause).partition("\n")[0]
            raise InputError(f"engine = 'graph': CUDA cannot capture this step ({reason}); take eager") from cause

    def replay(self) -> Tensor:
        """Compute all of it anew, and return a copy of the result."""
        self.captured.replay()
        return self.result.clone()


ENGINES = {"eager": Eager, "compile": Compiled, "graph": Graphed}
