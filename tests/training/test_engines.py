"""Engines: the trajectory of eager up to rounding, whichever takes the steps, and one line where one cannot be used.

torch.compile takes minutes on a busy core, so most tests let it trace and leave the code to eager. A CUDA graph is
played by `Tape`.
"""

import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from adasde.common import InputError
from adasde.experiments.artifacts import rows_digest
from adasde.experiments.plan import plan
from adasde.scaling.optimizers.fused import FusedAdam
from adasde.training import engines
from adasde.training.loop import train
from adasde.training.run import Run
from adasde.workloads import glue, language
from adasde.workloads.vision import BUILDERS, ImageWorkload
from conftest import changed
from random_texts import LANGUAGE, learning, texts

EXACT = 2.0**-10  # a learning rate that float32 holds exactly, as a CUDA graph reads it


class Tape(TorchDispatchMode):
    """What a CUDA graph does, on a CPU: note the operations of a function, and repeat them on the same tensors.

    Nothing is computed at the capture, and whatever Python decides there stays as it was.
    """

    def __init__(self, device):
        super().__init__()
        self.operations, self.before = [], {}

    def run(self, function):
        return function()

    def capture(self, function):
        with self:
            self.result = function()
        with torch.no_grad():
            for tensor, value in reversed(self.before.values()):  # some are views of others
                if not torch.equal(tensor, value):
                    tensor.copy_(value)

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        assert operation is not torch.ops.aten._local_scalar_dense.default  # a GPU would be waited for
        with torch.no_grad():
            for part in tree_leaves([args, kwargs]):
                if isinstance(part, torch.Tensor):
                    self.before.setdefault((part.data_ptr(), part.shape), (part, part.detach().clone()))
        made = operation(*args, **(kwargs or {}))
        self.operations.append((operation, args, kwargs or {}, made))
        return made

    @torch.no_grad()
    def replay(self):
        for operation, args, kwargs, made in self.operations:
            for own, new in zip(tree_leaves(made), tree_leaves(operation(*args, **kwargs)), strict=True):
                if isinstance(own, torch.Tensor) and own.data_ptr() != new.data_ptr():
                    own.copy_(new)
        return self.result.clone()


@pytest.fixture
def tape(monkeypatch):
    """The tapes that runs of this test have captured."""
    tapes = []
    monkeypatch.setattr(engines, "CUDAGraph", lambda device: tapes.append(Tape(device)) or tapes[-1])
    return tapes


@pytest.fixture
def traced(monkeypatch):
    """torch.compile traces, and leaves the code to eager; returns the number of graphs that it has made."""
    torch.compiler.reset()
    whole = nn.Module.compile
    monkeypatch.setattr(engines.Objective, "compile", lambda self, **_: whole(self, dynamic=False, backend="eager"))
    torch._dynamo.utils.counters.clear()
    return lambda: torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.fixture
def cnn(tensors):
    return ImageWorkload(tensors, BUILDERS["cnn"], 0.5, 0.3)


def exact(spec, **changes):
    """The spec at a learning rate that float32 holds exactly."""
    return changed(spec, schedule={}, optimizer={**spec.document["optimizer"], "lr": EXACT}, **changes)


def graphed(spec):
    return changed(spec, device="cuda", engine="graph")


def compiled(spec):
    return changed(spec, engine="compile")


def weights(run):
    return torch.cat([tensor.detach().flatten().float() for tensor in run.model.state_dict().values()])


def advanced(spec, task, steps=12):
    run = Run(spec, task)
    for _ in range(steps):
        run.advance(1)
    return run


def gap(one, other, task):
    """Distance of two runs' weights, relative to the way that the first has gone."""
    start = weights(Run(one.spec, task))
    return ((weights(one) - weights(other)).norm() / (weights(one) - start).norm()).item()


# Specs


def test_an_engine_is_part_of_the_spec_and_the_default_is_not(config):
    before = plan(config).runs
    assert not any("engine" in spec.document for spec in before.values())
    config["experiments"]["fashion-cnn-adam"]["engine"] = {"value": "compile", "source": "ours"}
    after = plan(config).runs
    differ = {run for run in before if before[run].hash != after[run].hash}
    of = {"fashion-cnn-adam", "branch-cnn-adam"}  # a branch takes its parent's
    assert differ == {run for run, spec in before.items() if getattr(spec, "experiment", None) in of}
    assert {after[run].engine for run in differ} == {"compile"}


RMSPROP = {"name": "rmsprop", "variant": "paper", "lr": 1e-3, "beta": 0.99, "eps": 1e-6, "weight_decay": 0.0}
INVARIANT = {"rule": "invariant", "kappa": 4, "batch_size": 128, "micro_batch": 32}
REFUSED = [
    ({"device": "cpu"}, "only a GPU has CUDA graphs"),
    ({"processes": 2}, "does not go with processes = 2"),
    ({"workload": "wiki-gpt2"}, "wiki-gpt2 is no vision workload"),
    ({"optimizer": RMSPROP}, "the update of RMSprop's variant 'paper' waits for the GPU"),
    ({**INVARIANT, "noise": []}, "the update of rule 'invariant' waits for the GPU"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=range(len(REFUSED)))
def test_a_graph_that_cannot_be_is_refused_in_one_line(options, message, spec):
    with pytest.raises(InputError) as refused:
        changed(spec, **{"device": "cuda", "engine": "graph", "evaluate": [12_800], "samples": 12_800, **options})
    assert str(refused.value) == f"engine = 'graph': {message}; take compile or eager"


def test_bad_engines_are_refused_before_any_job(config, adasde, tmp_path):
    import yaml

    path = tmp_path / "config.yaml"
    for engine, message in (
        ("graph", "experiments.fashion-cnn-adam: engine = 'graph': only a GPU has CUDA graphs; take compile or eager"),
        ("graphs", "experiments.fashion-cnn-adam.engine.value: 'graphs' is not one of ['eager', 'compile', 'graph']"),
    ):
        config["experiments"]["fashion-cnn-adam"]["engine"] = {"value": engine, "source": "ours"}
        path.write_text(yaml.safe_dump(config))
        done = adasde("plan", path)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert message in done.stderr


# A CUDA graph, played by a tape


@pytest.mark.parametrize("changes", [{}, {"clip": 0.05}, {"micro_batch": 8}, {"frozen": "last-layer"}], ids=str)
def test_a_captured_step_is_an_eager_one(changes, small_spec, resnet, tape):
    """Bit for bit, with batch norm, clipping and micro-batches; the warm-up and the capture leave no trace."""
    spec = exact(small_spec, **changes)
    eager, graph = advanced(spec, resnet), advanced(graphed(spec), resnet)
    assert torch.equal(weights(eager), weights(graph))
    assert len(tape) == 1
    assert 10 < len(tape[0].operations) < 1000


@pytest.mark.parametrize("optimizer", ["adamw", "authors"])
def test_svag_is_captured_whole(optimizer, at_ell, resnet, tape):
    other = {
        "authors": {**RMSPROP, "variant": "authors"},
        "adamw": {**at_ell(2).document["optimizer"], "decoupled": True},
    }
    spec = exact(changed(at_ell(2), optimizer={**other[optimizer], "weight_decay": 1e-2}))
    assert torch.equal(weights(advanced(spec, resnet)), weights(advanced(graphed(spec), resnet)))


def test_a_replay_reads_the_learning_rate_anew(small_spec, cnn, tape):
    """The schedule of this run changes it thirtyfold after the capture; float32 rounds it by up to 6e-8."""
    eager, graph = advanced(small_spec, cnn, 40), advanced(graphed(small_spec), cnn, 40)
    assert gap(eager, graph, cnn) < 1e-4
    assert gap(eager, advanced(changed(small_spec, schedule={}), cnn, 40), cnn) > 0.1


def test_a_tape_shows_what_python_would_have_frozen(small_spec, cnn, tape, monkeypatch):
    """The learning rate, if the optimizer took it as a number."""
    step = FusedAdam.step
    monkeypatch.setattr(FusedAdam, "step", lambda self, rate=None: step(self))
    eager, graph = advanced(small_spec, cnn, 40), advanced(graphed(small_spec), cnn, 40)
    assert gap(eager, graph, cnn) > 0.1


def interrupted(spec, task, path, at):
    """Rows of a run that is stopped after each of these steps, and each time resumed by code that is compiled anew."""

    def stop(now, steps):
        if now in at:
            raise InterruptedError

    for _ in at:
        with pytest.raises(InterruptedError):
            train(spec, task, path, every=0, report=stop)
        at = at[1:]
        torch.compiler.reset()
    return train(spec, task, path, every=0)[0]


@pytest.mark.parametrize("ell", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_graph_stopped_and_resumed_is_uninterrupted(ell, at_ell, resnet, tmp_path, tape):
    """Bit for bit, since the steps before the capture are the same."""
    spec = graphed(at_ell(ell))
    whole, _ = train(spec, resnet)
    steps = (10, 20) if ell == 1 else (32, 72)
    assert rows_digest(interrupted(spec, resnet, tmp_path / "c", steps)) == rows_digest(whole)
    assert len(tape) == 1 + 3


@pytest.mark.parametrize("engine", [graphed, compiled])
def test_divergence_is_the_same_row(engine, small_spec, cnn, tape, traced):
    spec = changed(small_spec, schedule={}, optimizer={**small_spec.document["optimizer"], "lr": 1e30})
    rows, _ = train(engine(spec), cnn)
    assert rows[-1] == train(spec, cnn)[0][-1]
    assert rows[-1][3] == "diverged"


@pytest.mark.parametrize(
    ("cause", "line"),
    [
        (
            RuntimeError("CUDA error: operation not permitted when stream is capturing\nand more"),
            "engine = 'graph': CUDA cannot capture this step (CUDA error: operation not permitted when stream is "
            "capturing); take eager",
        ),
        (InputError("batch_size: another line"), "batch_size: another line"),
        (torch.OutOfMemoryError("CUDA out of memory"), "CUDA out of memory"),
    ],
)
def test_a_step_that_cannot_be_captured_is_told_in_one_line(cause, line, cnn, monkeypatch):
    """Ending the capture fails as well, with an error of its own, as in torch."""

    def fails():
        raise cause

    class Broken:
        def __init__(self, *_, **options):
            assert options["capture_error_mode"] == "thread_local"

        def __enter__(self):
            return self

        def __exit__(self, *_):
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    stream, left = type("Stream", (), {"device": None, "wait_stream": lambda *_: None}), []
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: None)
    monkeypatch.setattr(torch.cuda, "graph", Broken)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: "the stream before")
    monkeypatch.setattr(torch.cuda, "set_stream", left.append)
    with pytest.raises((InputError, torch.OutOfMemoryError)) as refused:
        engines.CUDAGraph(cnn.device).capture(fails)
    assert str(refused.value) == line
    assert left == ["the stream before"]


# torch.compile, its code left to eager


@pytest.mark.slow
def test_a_run_is_compiled_once(small_spec, cnn, traced):
    """Evaluations, schedules and further runs of the same shapes make no other code, and other shapes make one each."""
    train(compiled(small_spec), cnn)
    assert traced() == 1
    train(compiled(changed(small_spec, seed=1)), cnn)
    assert traced() == 1
    for number, size in enumerate((2, 4, 5, 8, 10, 16, 20, 40), start=2):  # more than torch's limit of eight
        Run(compiled(changed(small_spec, batch_size=size, evaluate=[640, 1280])), cnn).advance(1)
        assert traced() == number


@pytest.mark.parametrize("changes", [{"clip": 0.05}, {"micro_batch": 8}, {"precision": "bf16"}], ids=str)
def test_what_is_compiled_is_the_same_step(changes, small_spec, cnn, traced):
    spec = changed(small_spec, **changes)
    assert torch.equal(weights(advanced(spec, cnn)), weights(advanced(compiled(spec), cnn)))
    assert traced() == 1


def test_compiled_svag_is_two_passes(at_ell, resnet, traced):
    """Whole minibatches as micro-batches are the two passes of the definition, each with its own batch norm."""
    run = advanced(compiled(at_ell(2)), resnet)
    assert run.examples == run.spec.batch_size == 32
    assert traced() == 1
    assert torch.equal(weights(run), weights(advanced(changed(at_ell(2), micro_batch=32), resnet)))


def test_the_rule_invariant_is_compiled(small_spec, cnn, traced):
    spec = changed(small_spec, **INVARIANT, samples=1280, evaluate=[1280])
    assert torch.equal(weights(advanced(spec, cnn)), weights(advanced(compiled(spec), cnn)))


def test_what_cannot_be_compiled_is_told_in_one_line(small_spec, cnn, monkeypatch):
    torch.compiler.reset()

    def broken(*_):
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr(engines.Objective, "compile", lambda self, **_: nn.Module.compile(self, backend=broken))
    with pytest.raises(InputError, match="^engine = 'compile': torch cannot compile this workload .*; take eager$"):
        Run(compiled(small_spec), cnn).advance(1)


def test_other_errors_stay_what_they_are(small_spec, cnn, traced, monkeypatch):
    def broken(*_):
        raise LookupError("a mistake")

    monkeypatch.setattr(type(cnn), "compiled_loss", broken)
    with pytest.raises(LookupError, match="a mistake"):
        Run(compiled(small_spec), cnn).advance(1)


# Language


@pytest.mark.parametrize("kind", LANGUAGE)
@pytest.mark.parametrize("logits", [1 << 28, 1000])
def test_a_chunked_loss_over_a_padded_vocabulary_is_the_loss(kind, logits, monkeypatch):
    """With its gradient, up to rounding: 50 tokens are padded to 64, and 1,000 logits are 15 tokens at once."""
    monkeypatch.setattr(language, "LOGITS", logits)
    task = texts(kind)
    torch.manual_seed(0)
    model, batch = task.model(), task.gather(torch.arange(8))
    found = {}
    for loss in (task.loss, task.compiled_loss):
        model.zero_grad()
        value = loss(model, *batch)
        value.backward()
        found[loss.__name__] = value.item(), torch.cat([p.grad.flatten() for p in model.parameters()])
    (one, wanted), (other, given) = found.values()
    assert other == pytest.approx(one, rel=1e-6)
    assert (given - wanted).norm() < 1e-6 * wanted.norm()


@pytest.mark.parametrize("kind", LANGUAGE)
def test_the_head_of_another_model_is_left_to_it(kind, monkeypatch):
    monkeypatch.setattr(kind, "loss", lambda *_: "its own")
    assert texts(kind).compiled_loss(nn.Linear(1, 1), *[None] * (2 if kind is LANGUAGE[0] else 3)) == "its own"


@pytest.mark.parametrize("kind", LANGUAGE)
def test_compiled_attention_has_no_mask(kind, spec, monkeypatch):
    """So that a GPU may take flash attention, which takes none."""
    graphs, whole = [], nn.Module.compile
    backend = lambda graph, _: graphs.append(graph.graph) or graph.forward  # noqa: E731
    torch.compiler.reset()
    monkeypatch.setattr(engines.Objective, "compile", lambda self, **_: whole(self, dynamic=False, backend=backend))
    Run(compiled(learning(spec)), texts(kind)).advance(1)
    (graph,) = graphs
    attention = [n for n in graph.nodes if n.target is nn.functional.scaled_dot_product_attention]
    assert [(n.kwargs["attn_mask"], n.kwargs["is_causal"]) for n in attention] == [(None, kind is LANGUAGE[0])]


# torch.compile itself


@pytest.mark.slow
@pytest.mark.parametrize(("network", "bound"), [("cnn", 1e-5), ("resnet", 0.1)])
def test_compiled_images_follow_eager_ones(network, bound, small_spec, tensors):
    """A residual network's areas of equal pixels lie on the kink of a ReLU, where rounding moves them both ways."""
    task = ImageWorkload(tensors, BUILDERS[network], 0.5, 0.3)
    eager, other = advanced(small_spec, task, 40), advanced(compiled(small_spec), task, 40)
    assert 0 < gap(eager, other, task) < bound


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*LANGUAGE, glue.ClassificationWorkload])
def test_compiled_texts_follow_eager_ones_with_their_dropout(kind, spec, tmp_path):
    """And stopped and resumed they are uninterrupted, bit for bit.

    Metrics are compared, not weights: attention does not depend on the bias of its keys, whose gradient is rounding,
    which Adam makes as large as any other.
    """
    task, spec = texts(kind, dropout=0.2), learning(spec)
    (eager, _), (whole, _) = train(spec, task), train(compiled(spec), task)
    assert rows_digest(eager) != rows_digest(whole)  # it is other code
    for (*place, value), (*other, found) in zip(eager, whole, strict=True):
        assert place == other
        if not place[3].startswith(("speed", "persistent", "test_accuracy")):
            assert found == pytest.approx(value, rel=1e-5), place
    assert rows_digest(interrupted(compiled(spec), task, tmp_path / "c", (20,))) == rows_digest(whole)


@pytest.mark.slow
@pytest.mark.parametrize("ell", [1, 2])
def test_compiled_images_stopped_and_resumed_are_uninterrupted(ell, at_ell, resnet, tmp_path):
    spec = compiled(at_ell(ell))
    whole, _ = train(spec, resnet)
    assert math.isfinite(whole[-1][4])
    steps = (10, 20) if ell == 1 else (32, 72)
    assert rows_digest(interrupted(spec, resnet, tmp_path / "c", steps)) == rows_digest(whole)
