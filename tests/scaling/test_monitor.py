"""The monitor of the gradient's noise: when it measures, concludes and refuses. M1 to M11 are known cases."""

import math
import warnings

import pytest
import torch
from torch import distributed, nn
from torch.optim import Adam, RMSprop

from adasde.common import InputError
from adasde.scaling import gradient_noise, lag
from adasde.scaling.monitor import NoiseMonitor
from adasde.scaling.rescale import rescale
from adasde.scaling.rules import RULES, ScalingWarning

pytestmark = pytest.mark.filterwarnings("ignore:noise:adasde.scaling.rules.ScalingWarning")  # 400 examples


@pytest.fixture
def loop():
    """A regression, its loss, and chunks of its data."""
    torch.manual_seed(1)
    x = torch.randn(400, 5)
    y = x @ torch.arange(5.0)[:, None] + torch.randn(400, 1)
    model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 1))
    return model, x, y, lambda model, x, y: ((model(x) - y) ** 2).mean()


@pytest.fixture
def monitor(loop):
    """A function that makes monitors of the regression, which is noisier here."""
    model, x, _, loss = loop
    torch.manual_seed(0)
    y = x.sum(1, keepdim=True) + 5 * torch.randn(400, 1)

    def make(parameters=None, model=model, loss=loss, chunks=None, every=1, **options):
        optimizer = Adam(parameters or model.parameters(), **{"lr": 1e-3, "betas": (0.99, 0.999), **options})
        chunks = chunks or list(zip(x.split(20), y.split(20), strict=True))
        return NoiseMonitor(model, optimizer, 16, loss, chunks, every)

    return make


def largest(monitor):
    """The largest kappa after one step."""
    monitor(1)
    return monitor.largest_kappa()


def test_the_monitor_measures_when_due_and_leaves_the_training_alone(loop):
    model, x, y, loss = loop
    optimizer = Adam(model.parameters(), lr=1e-2, betas=(0.9, 0.95))
    chunks = list(zip(x.split(20), y.split(20), strict=True))
    model.train()
    state = torch.get_rng_state()
    monitor = NoiseMonitor(model, optimizer, 16, loss, chunks, every=10)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(InputError, match="nothing measured after the start yet"):
        monitor.largest_kappa()
    for number in range(1, 26):
        drawn = torch.randint(400, (16,))
        optimizer.zero_grad()
        loss(model, x[drawn], y[drawn]).backward()
        optimizer.step()
        monitor(number)
    assert monitor.times == pytest.approx([0.0, 10e-4, 20e-4])
    lags = monitor.lags()
    assert list(lags) == list(gradient_noise.KAPPAS)
    assert all(0 <= a <= b + 1e-9 <= 1 for a, b in zip(list(lags.values()), list(lags.values())[1:], strict=False))
    assert 1 <= monitor.largest_kappa() <= 5 + 1e-9  # where beta1 would be 0.5
    model.eval()
    _, gradient = gradient_noise.measure(model, loss, chunks)
    fresh = NoiseMonitor(model, optimizer, 16, loss, chunks, every=10)
    wanted = gradient.speeds((3, 4), 0.25, 1e-8)
    assert fresh.speeds([3, 4]) == pytest.approx(wanted)
    assert fresh.gradient_noise_scale() == pytest.approx(gradient.trace / gradient.squared)
    assert fresh.history[0]["speed_k4"] == pytest.approx(wanted[4])
    assert fresh.history[0]["critical_batch"] == pytest.approx(fresh.critical_batch())
    assert fresh.speeds([fresh.critical_batch() / 16]).popitem()[1] == pytest.approx(0.9, abs=1e-3)
    assert not model.training
    with pytest.raises(InputError, match="step = 3: before the last one, 25"):
        monitor(3)


def test_where_noise_dominates_the_betas_are_the_limit(loop):
    model, x, _, loss = loop
    y = 100 * torch.randn(400, 1)  # nothing to learn
    optimizer = Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.99))
    monitor = NoiseMonitor(model, optimizer, 1, loss, zip(x.split(20), y.split(20), strict=True), every=1)
    monitor(1)
    assert monitor.largest_kappa() == pytest.approx(5)
    rescale(optimizer, monitor.largest_kappa())  # without a warning
    with pytest.raises(InputError, match=r"the optimizer was rescaled; call .rescaled\(kappa\), or make a new one"):
        monitor(2)


def test_the_cap_of_the_betas_is_that_of_predict():
    lags = {2: [0.0, 0.01], 4: [0.0, 0.02]}
    assert lag.largest_kappa(lags, []) == lag.safe_kappa(lags) == 4
    assert lag.largest_kappa(lags, [0.0, 0.75, 0.999]) == pytest.approx(2)
    assert lag.largest_kappa({2: [0.4]}, [0.75]) == pytest.approx(2**0.25)


def test_what_a_monitor_cannot_measure_is_refused(loop):
    model, x, y, loss = loop
    adam, chunks = Adam(model.parameters()), list(zip(x.split(20), y.split(20), strict=True))
    for optimizer, words in (
        (torch.optim.SGD(model.parameters(), lr=1.0), "optimizer = SGD: must be torch's Adam"),
        (RMSprop(model.parameters(), momentum=0.9), "momentum = 0.9: the rule is for RMSprop without"),
    ):
        with pytest.raises(InputError, match=words):
            NoiseMonitor(model, optimizer, 16, loss, chunks, every=1)
    with pytest.raises(InputError, match="chunks: each must be a tuple of tensors, .* not Tensor"):
        NoiseMonitor(model, adam, 16, loss, x.split(20), every=1)
    with pytest.raises(InputError, match=r"loss: of shape \(20,\); must be a scalar"):
        NoiseMonitor(model, adam, 16, lambda m, a, b: (m(a) - b).square()[:, 0], chunks, every=1)
    embedding = nn.Embedding(400, 2, sparse=True)
    parts = [(part,) for part in torch.arange(400).split(20)]
    with pytest.raises(InputError, match="gradient: sparse"):
        NoiseMonitor(embedding, Adam(embedding.parameters()), 16, lambda m, i: m(i).mean(), parts, every=1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [0, -1])
def test_m1_numbers_that_are_not_finite_are_refused(monitor, loop, value, place):
    model, *_, loss = loop
    found = monitor()
    list(model.parameters())[place].data.view(-1)[0] = value
    with pytest.raises(InputError, match="weights: not finite at step 1; training has diverged, nothing measured"):
        found(1)
    assert len(found.history) == 1
    with pytest.raises(InputError, match="weights: not finite at step 0"):
        monitor()
    list(model.parameters())[place].data.view(-1)[0] = 0.0
    for wrong, word in ((lambda m, x, y: value * loss(m, x, y), "loss"), (steep, "gradient")):
        with pytest.raises(InputError, match=f"{word}: not finite at step 0"):
            monitor(loss=wrong)


def steep(model, x, y):
    """A loss of 0 with an infinite gradient."""
    return (model(x) - model(x).detach()).square().sum().sqrt()


def test_m2_every_modules_mode_is_restored(monitor):
    model = nn.Sequential(nn.BatchNorm1d(5), nn.Dropout(), nn.Linear(5, 1)).train()
    model[0].eval()
    statistics = model[0].running_mean.clone()
    monitor(model=model)
    assert [module.training for module in model.modules()] == [True, False, True, True]
    assert torch.equal(model[0].running_mean, statistics)

    def failing(*_):
        raise KeyError

    with pytest.raises(KeyError):
        monitor(model=model, loss=failing)
    assert [module.training for module in model.modules()] == [True, False, True, True]


def test_m3_weights_count_as_they_move(monitor, loop):
    body, head = loop[0][0], loop[0][3]
    wanted = largest(monitor(head.parameters()))
    assert wanted != pytest.approx(largest(monitor()), rel=0.01)
    slow = [{"params": body.parameters(), "lr": 1e-12}, {"params": head.parameters()}]
    assert largest(monitor(slow)) == pytest.approx(wanted)
    # Of two groups the descents add up, weighted by the rates and with an eps each.
    groups = [{"params": body.parameters(), "lr": 2e-3, "eps": 0.3}, {"params": head.parameters(), "eps": 0.1}]
    found = monitor(groups)
    loop[0].eval()
    _, gradient = gradient_noise.measure(loop[0], found.loss, found.chunks)
    signals = list(gradient.signals())
    first, fourth = gradient_noise.descents(signals, (1, 4), 0.25, [0.3, 0.3, 0.1, 0.1], [2, 2, 1, 1])
    assert found.speeds([4])[4] == pytest.approx(fourth / first)


def test_m4_a_group_at_rate_0_neither_counts_nor_sets_the_clock(monitor, loop):
    body, head = loop[0][0], loop[0][3]
    groups = [{"params": body.parameters(), "lr": 0.0}, {"params": head.parameters()}]
    found = [monitor(part) for part in (groups, groups[::-1])]
    assert largest(found[0]) == pytest.approx(largest(found[1])) == pytest.approx(largest(monitor(head.parameters())))
    assert found[0].times == found[1].times == pytest.approx([0.0, 1e-6])
    still = monitor(lr=0.0)  # as before a warm-up from 0
    assert still.speeds([4]) == monitor().speeds([4])
    still(1)
    with pytest.raises(InputError, match="nothing measured after the start yet"):
        still.lags()
    still.optimizer.param_groups[0]["lr"] = 1e-3
    still(2)
    assert math.isfinite(still.largest_kappa())


def test_m5_identical_chunks_have_no_noise(monitor, loop):
    _, x, y, _ = loop
    found = monitor(chunks=[(x[:20], y[:20])] * 20)
    found(1)
    for kappa, value in found.lags().items():
        assert value == pytest.approx(1 - kappa**-0.5, rel=1e-5)
    assert largest(found) == pytest.approx(2 ** (0.1 / (1 - 2**-0.5)), rel=1e-5)  # linear in log kappa from 1 to 2


def test_m6_a_monitor_that_is_attached_late_counts_from_there(monitor):
    found = monitor(every=50)
    found(10001)
    found(10051)
    assert [time / 1e-6 for time in found.times] == pytest.approx([0, 1, 51])
    assert [row["examples"] for row in found.history] == [0, 16, 51 * 16]
    early = monitor(every=50)
    early(1)
    early(50)
    assert [time / 1e-6 for time in early.times] == pytest.approx([0, 50])
    # A schedule's time is the sum of lr^2, not the last rate's.
    falling = monitor(every=4)
    for step, rate in enumerate((4e-3, 3e-3, 2e-3, 1e-3), start=1):
        falling.optimizer.param_groups[0]["lr"] = rate
        falling(step)
    assert falling.times == pytest.approx([0, 30e-6])


@pytest.fixture
def gloo(tmp_path):
    """A process group of one."""
    distributed.init_process_group(
        "gloo", store=distributed.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1
    )
    yield
    distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
def test_m7_sharded_models_are_refused_and_ddp_is_unwrapped(gloo, monitor, loop):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel

    try:
        from torch.distributed.fsdp import fully_shard
    except ImportError:  # torch 2.5
        from torch.distributed._composable.fsdp import fully_shard

    model, x, y, loss = loop
    replicated = nn.parallel.DistributedDataParallel(model)
    found = monitor(model=replicated)
    for step in range(1, 4):  # the model's own backward pass still works
        loss(replicated, x, y).backward()
        found(step)
    assert found.history[-1]["speed_k4"] == monitor().history[-1]["speed_k4"]
    first = [
        FullyShardedDataParallel(nn.Linear(5, 1), device_id=torch.device("cpu"), use_orig_params=original)
        for original in (True, False)
    ]
    second = nn.Linear(5, 1)
    fully_shard(second, mesh=init_device_mesh("cpu", (1,)))
    for sharded in (*first, second):
        with pytest.raises(InputError, match=r"parameters: sharded \(FSDP or DTensor\)"):
            monitor(model=sharded)


def test_m8_a_batch_of_dictionaries_counts_its_examples(monitor, loop):
    _, x, _, loss = loop
    plain = monitor()
    chunks = [({"scale": torch.tensor(1.0), "x": a, "more": [b]},) for a, b in plain.chunks]
    keyed = monitor(loss=lambda m, part: loss(m, part["x"], part["more"][0]), chunks=chunks)
    assert keyed.history == plain.history
    with pytest.raises(InputError, match="chunks: one holds tensors of 5 and 20 rows, so its number of examples is"):
        monitor(chunks=[(a, torch.ones(5)) for a, _ in plain.chunks])
    for nothing in ((["text"],), ({"x": torch.tensor(1.0)},), (x[:0],)):
        with pytest.raises(InputError, match="chunks: one holds no examples; each must begin with a tensor of shape"):
            monitor(loss=lambda m, _: loss(m, x, x[:, :1]), chunks=[nothing] * 2)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "invariant"])
def test_m9_after_a_rescaling_by_any_rule_it_must_be_told(monitor, rule):
    found = monitor()
    found(1)
    before, critical = found.speeds([2, 8]), found.critical_batch()
    rescale(found.optimizer, 4, rule)
    with pytest.raises(InputError, match=r"the optimizer was rescaled; call .rescaled\(kappa\), or make a new one"):
        found(2)
    with pytest.raises(InputError, match="kappa = 0.3: the optimizer was rescaled by 4"):
        found.rescaled(0.3)
    found.rescaled(4)
    assert found.batch_size == 64
    assert found.critical_batch() == found.history[-1]["critical_batch"] == pytest.approx(critical, rel=1e-6)
    assert found.speeds([2])[2] == pytest.approx(before[8] / monitor().speeds([4])[4], rel=1e-6)
    with pytest.raises(InputError, match="nothing measured after the start yet"):
        found.lags()
    found(2)
    assert 0 < found.lags()[2] < 1
    assert [row["batch_size"] for row in found.history] == [16, 16, 64, 64]
    assert [row["examples"] for row in found.history] == [0, 16, 16, 80]


def test_m10_the_random_state_is_restored(monitor, loop):
    state = torch.get_rng_state()
    monitor(loss=lambda m, x, y: loop[3](m, x + torch.randn_like(x), y))
    assert torch.equal(torch.get_rng_state(), state)


def test_m11_it_measures_under_no_grad(monitor):
    found = monitor()
    with torch.no_grad():
        found(1)
    with torch.inference_mode():
        found(2)
    assert found.history[2]["speed_k4"] == found.history[0]["speed_k4"]
    assert not torch.is_inference_mode_enabled()


def test_a_checkpoint_goes_on(monitor, tmp_path):
    found = monitor(every=5)
    for step in range(1, 13):
        found(step)
    torch.save(found.state_dict(), tmp_path / "state")
    other = monitor(every=5)
    other.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    for step in range(13, 22):
        found(step)
        other(step)
    assert other.history == found.history
    assert other.largest_kappa() == found.largest_kappa()
    with pytest.raises(InputError, match="state_dict: holds no history; it must be of the same class"):
        other.load_state_dict({"batch_size": 16})
    for wrong, words in (
        ({"history": "x"}, "history = 'x': must be a list"),
        ({"time": None}, "time = None: must be a number"),
    ):
        with pytest.raises(InputError, match=f"state_dict: {words}"):
            other.load_state_dict({**found.state_dict(), **wrong})
        assert other.history == found.history


def test_few_examples_are_a_warning(loop):
    model, *_, loss = loop
    x = torch.randn(512, 5)

    def measured(count):
        chunks = list(zip(x[:count].split(64), x[:count, :1].split(64), strict=True))
        return NoiseMonitor(model, Adam(model.parameters()), 16, loss, chunks, every=1)

    measured(512)  # warnings of the rule's own kind are errors here
    with pytest.warns(
        ScalingWarning, match="^noise: measured on 511 examples, too few to be certain; give at least 512$"
    ):
        measured(511)


def test_the_figure_says_where_it_stands(monitor):
    pytest.importorskip("matplotlib")
    found = monitor()
    found(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        title = found.plot().axes[0].get_title()
    assert title.startswith("Now at batch size 16; the square root holds up to")
