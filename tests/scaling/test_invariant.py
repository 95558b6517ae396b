"""InvariantAdam: against its plain definition, torch's Adam and k steps of the baseline; its state; what it refuses."""

import copy
import io
import math
import pickle

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as S  # noqa: N812, as cases are written

from adasde.common import InputError
from adasde.scaling.hyperparameters import AdamHyperparameters
from adasde.scaling.optimizers import InvariantAdam
from scaling.plain_optimizers import plain_invariant_adam

STEPS = 100
ADAM = AdamHyperparameters(1e-2, 0.9, 0.99, 1e-6, weight_decay=0.05)
ADAMW = AdamHyperparameters(1e-2, 0.9, 0.99, 1e-6, weight_decay=0.05, decoupled=True)


def invariant(params, h, micro_batches=1):
    return InvariantAdam(params, h.lr, (h.beta1, h.beta2), h.eps, h.weight_decay, h.decoupled, micro_batches)


def torchs(params, h, **options):
    kind = torch.optim.AdamW if h.decoupled else torch.optim.Adam
    return kind(params, lr=h.lr, betas=(h.beta1, h.beta2), eps=h.eps, weight_decay=h.weight_decay, **options)


def weights(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in ((3, 4), (5,))]


def gradients(count, seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(p.shape, generator=generator, dtype=dtype) for p in weights()] for _ in range(count)]


def give(params, grads):
    for p, g in zip(params, grads, strict=True):
        p.grad = None if g is None else g.clone()


def train(optimizer, params, all_gradients, k):
    """Take steps of ``k`` micro-batches."""
    for number, grads in enumerate(all_gradients, start=1):
        give(params, grads)
        optimizer.accumulate()
        if number % k == 0:
            optimizer.step()


def assert_same(one, other, tolerance=0.0):
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


def snapshot(optimizer):
    """Everything that a refusal must leave as it was."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    values = [(p.detach().clone(), None if p.grad is None else p.grad.clone()) for p in params]
    return values, copy.deepcopy(optimizer.state_dict()), optimizer.micro_batches


def assert_untouched(before, optimizer):
    buffers = io.BytesIO(), io.BytesIO()
    for found, buffer in zip((before, snapshot(optimizer)), buffers, strict=True):
        torch.save(found, buffer)
    assert buffers[0].getvalue() == buffers[1].getvalue()


@pytest.mark.parametrize("h", [ADAM, ADAMW])
@pytest.mark.parametrize("way", ["step", "accumulate", "closure"])
def test_one_micro_batch_is_torchs_adam(h, way):
    ours, theirs = weights(), weights()
    optimizer, reference = invariant(ours, h), torchs(theirs, h)
    for grads in gradients(STEPS):
        give(theirs, grads)
        reference.step()
        if way == "closure":

            def closure(grads=grads):
                give(ours, grads)
                return torch.tensor(3.0)

            assert optimizer.step(closure) == 3.0
        else:
            give(ours, grads)
            if way == "accumulate":
                optimizer.accumulate()
                assert all(p.grad is None for p in ours)
            optimizer.step()
        assert_same(ours, theirs, 1e-12)


@pytest.mark.parametrize("h", [ADAM, ADAMW])
@pytest.mark.parametrize("k", [2, 5])
def test_it_is_its_definition(h, k):
    """One of the tensors lacks a gradient in some micro-batches, and in all those of some steps."""
    missing = torch.Generator().manual_seed(5)
    given = [
        [first, second if torch.rand((), generator=missing) < 0.5 else None]
        for first, second in gradients(STEPS * k, dtype=torch.float64)
    ]
    assert any(all(g is None for _, g in given[n : n + k]) for n in range(0, STEPS * k, k))
    params = weights()
    optimizer = invariant(params, h, k)
    wanted = [
        plain_invariant_adam(start.detach(), [[g[place] for g in given[n : n + k]] for n in range(0, STEPS * k, k)], h)
        for place, start in enumerate(weights())
    ]
    for n in range(0, STEPS * k, k):
        train(optimizer, params, given[n : n + k], k)
        assert_same([p.detach() for p in params], [next(path) for path in wanted], 1e-12)


def distance(lr, k, square):
    """Root mean square distance of k micro-batches a step from the baseline, at time 1 of the SDE, over 2,000 paths."""
    ends = []
    for size, kind in ((1, InvariantAdam), (k, InvariantAdam if square == "first" else torch.optim.Adam)):
        generator = torch.Generator().manual_seed(0)
        p, betas, waiting = nn.Parameter(torch.ones(2000, dtype=torch.float64)), (1 - lr**2, 1 - 2 * lr**2), []
        if kind is InvariantAdam:
            optimizer = kind([p], lr, betas, eps=0.1 / lr, micro_batches=size)
        else:
            optimizer = kind([p], k * lr, tuple(beta**k for beta in betas), eps=0.1 / lr)
        for number in range(1, round(lr**-2) + 1):
            # Noise of scale 1 / lr, so that sigma0 = 1; the same for both.
            noise = torch.randn(2000, generator=generator, dtype=torch.float64) / lr
            if kind is InvariantAdam:
                p.grad = p.detach() + noise
                optimizer.accumulate()
            else:
                waiting.append(p.detach() + noise)
                p.grad = torch.stack(waiting[-size:]).mean(0)
            if number % size == 0:
                optimizer.step()
        ends.append(p.detach())
    return (ends[0] - ends[1]).square().mean().sqrt().item()


def test_k_micro_batches_are_k_steps_of_the_baseline_to_first_order_in_lr():
    """At fixed constants of the SDE. Means that are squared after averaging stay apart, whatever lr is."""
    rates = [64**-0.5, 128**-0.5, 256**-0.5, 512**-0.5]
    found = [distance(lr, 4, "first") for lr in rates]
    slope = math.log(found[0] / found[-1]) / math.log(rates[0] / rates[-1])
    assert 0.9 < slope < 1.3  # terms of second order raise it: 1.2 here, 1.09 from 512 to 4,096 steps
    assert found[-1] < 0.03
    assert distance(rates[-1], 4, "last") > 0.2


def test_groups_have_their_own_values_and_take_new_members_in_the_middle_of_a_step():
    first, second, third, fourth = (nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(4))
    groups = [{"params": [first]}, {"params": [second], "lr": 1e-4, "betas": (0.5, 0.9), "decoupled": False}]
    optimizer = InvariantAdam(groups, lr=1e-2, weight_decay=0.5, micro_batches=2)
    stream = [[torch.full((2,), value, dtype=torch.float64)] for value in (1.0, -0.5, 2.0, 1.0)]
    for number, (g,) in enumerate(stream):
        give([first, second], [g, g])
        if number == 3:
            optimizer.add_param_group({"params": [third, fourth], "eps": 1e-3})
            third.grad = g.clone()
        optimizer.accumulate()
        if number % 2:
            optimizer.step()
    values = {
        first: AdamHyperparameters(1e-2, 0.9, 0.999, 1e-8, 0.5, decoupled=True),
        second: AdamHyperparameters(1e-4, 0.5, 0.9, 1e-8, 0.5),
        third: AdamHyperparameters(1e-2, 0.9, 0.999, 1e-3, 0.5, decoupled=True),
    }
    pairs = [[stream[0][0], stream[1][0]], [stream[2][0], stream[3][0]]]
    for p, h in values.items():
        given = [[None, stream[3][0]]] if p is third else pairs
        *_, wanted = plain_invariant_adam(torch.ones(2, dtype=torch.float64), given, h)
        torch.testing.assert_close(p.detach(), wanted, rtol=0, atol=1e-12)
    assert torch.equal(fourth.detach(), torch.ones(2, dtype=torch.float64))  # it never had a gradient
    assert fourth not in optimizer.state


@pytest.mark.parametrize(
    "make",
    [
        lambda o: S.OneCycleLR(o, 1e-2, total_steps=40),
        lambda o: S.CyclicLR(o, 1e-4, 1e-2, step_size_up=5),
        lambda o: S.CosineAnnealingWarmRestarts(o, 7, eta_min=1e-5),
        lambda o: S.LambdaLR(o, lambda k: k / 10),
        lambda o: S.SequentialLR(o, [S.LinearLR(o, 0.1, total_iters=3), S.ExponentialLR(o, 0.9)], [3]),
        lambda o: S.ReduceLROnPlateau(o, patience=2),
    ],
)
def test_schedulers_of_torch_act_as_on_torchs_adam(make):
    """OneCycleLR cycles beta1 as well."""
    ours, theirs = weights(), weights()
    optimizer, reference = invariant(ours, ADAMW), torchs(theirs, ADAMW)
    schedulers = make(optimizer), make(reference)
    for grads in gradients(30):
        for params, one, scheduler in zip((ours, theirs), (optimizer, reference), schedulers, strict=True):
            give(params, grads)
            one.step()
            scheduler.step(*([1.0] if isinstance(scheduler, S.ReduceLROnPlateau) else []))
        assert_same(ours, theirs, 1e-12)
    assert optimizer.param_groups[0]["betas"] == reference.param_groups[0]["betas"]
    assert optimizer.param_groups[0]["lr"] == pytest.approx(reference.param_groups[0]["lr"])
    assert optimizer.param_groups[0]["lr"] != ADAMW.lr


@pytest.mark.parametrize("k", [1, 3])
def test_it_goes_with_a_grad_scaler(k):
    """With one micro-batch as every optimizer; with more, unscale before and update after each `accumulate`."""
    one, two = weights(torch.float32), weights(torch.float32)
    scaled, plain = invariant(one, ADAMW, k), invariant(two, ADAMW, k)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=4)

    def loss(params, factor):
        return sum((factor * p).square().sum() for p in params)

    factors = [1.0, 2.0, torch.inf, 0.5, 3.0, 1.5, 0.7]  # the third overflows, and is left out
    for number, factor in enumerate(factors):
        scaled.zero_grad() if k == 1 else None
        scaler.scale(loss(one, factor)).backward()
        if k == 1:
            scaler.step(scaled)
        else:
            scaler.unscale_(scaled)
            if factor == torch.inf:
                with pytest.raises(InputError, match="gradient: not finite"):
                    scaled.accumulate()
                for p in one:
                    p.grad = None
            else:
                scaled.accumulate()
        scaler.update()
        if factor < torch.inf:
            loss(two, factor).backward()
            plain.accumulate()
            if (number - (number > 2) + 1) % k == 0:
                plain.step()
                if k > 1:
                    scaled.step()
    assert scaled.state[one[0]]["step"] == 6
    assert_same(one, two, 1e-6)


def test_hooks_are_called_and_find_the_moments_of_the_last_step():
    params, found = weights(), []
    optimizer = invariant(params, ADAMW, 4)
    optimizer.register_step_pre_hook(lambda *_: found.append("pre"))
    handle = optimizer.register_step_post_hook(lambda o, *_: found.append(o.last_moments()))
    with pytest.raises(InputError, match=r"last_moments: call it after step\(\), and before the next accumulate"):
        optimizer.last_moments()
    given = gradients(8)
    for n in (0, 4):
        train(optimizer, params, given[n : n + 4], 4)
        word, moments = found[-2:]
        assert word == "pre"
        for place, p in enumerate(params):
            stacked = torch.stack([grads[place] for grads in given[n : n + 4]])
            assert_same(moments[p], (stacked.mean(0), stacked.square().mean(0)), 1e-12)
    optimizer.zero_grad()  # the usual place for it
    assert_same(optimizer.last_moments()[params[0]], moments[params[0]])
    give(params, given[0])
    optimizer.accumulate()
    with pytest.raises(InputError, match="last_moments"):
        optimizer.last_moments()
    handle.remove()


def saved(state):
    """A state as a checkpoint gives it back."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("number", [0, 2, 4, 12, 14])
@pytest.mark.parametrize("way", ["state_dict", "deepcopy", "pickle"])
def test_it_goes_on_from_a_checkpoint_also_in_the_middle_of_a_step(number, way):
    params, given = weights(), gradients(24)
    optimizer = invariant(params, ADAM, 4)
    train(optimizer, params, given[:number], 4)
    if way == "state_dict":
        copies = [nn.Parameter(p.detach().clone()) for p in params]
        other = InvariantAdam(copies, micro_batches=4)
        other.load_state_dict(saved(optimizer.state_dict()))
    else:
        other = copy.deepcopy(optimizer) if way == "deepcopy" else pickle.loads(pickle.dumps(optimizer))
        copies = other.param_groups[0]["params"]
    for one, tensors in ((optimizer, params), (other, copies)):
        for count, grads in enumerate(given[number:], start=number + 1):
            give(tensors, grads)
            one.accumulate()
            if count % 4 == 0:
                one.step()
    assert_same(params, copies)


def test_after_a_step_the_state_is_no_larger_than_adams():
    params = weights()
    optimizer = invariant(params, ADAM, 2)
    train(optimizer, params, gradients(4), 2)
    assert all(set(state) == {"step", "exp_avg", "exp_avg_sq"} for state in optimizer.state_dict()["state"].values())


@pytest.mark.parametrize("h", [ADAM, ADAMW])
@pytest.mark.parametrize("fused", [False, True])
def test_a_checkpoint_of_torchs_adam_goes_on(h, fused):
    """Its averages are those of the baseline; so are the counts of steps, in micro-batches."""
    theirs, given = weights(), gradients(20)
    reference = torchs(theirs, h, fused=fused)
    for grads in given[:10]:
        give(theirs, grads)
        reference.step()
    ours = [nn.Parameter(p.detach().clone()) for p in theirs]
    optimizer = InvariantAdam(ours, decoupled=h.decoupled)
    optimizer.load_state_dict(saved(reference.state_dict()))
    for grads in given[10:]:
        for params, one in ((ours, optimizer), (theirs, reference)):
            give(params, grads)
            one.step()
        assert_same(ours, theirs, 1e-12)
    optimizer.micro_batches = 5  # and from here on at five times the batch
    train(optimizer, ours, given[:5], 5)
    assert optimizer.state[ours[0]]["step"] == 25


@pytest.mark.parametrize("count", [0, 1, 3, 5, 6])
def test_a_step_after_the_wrong_number_of_micro_batches_is_refused(count):
    params = weights()
    optimizer = invariant(params, ADAM, 4)
    train(optimizer, params, gradients(4), 4)
    for grads in gradients(count, seed=2):
        give(params, grads)
        optimizer.accumulate()
    before = snapshot(optimizer)
    wrong = f"{4 - count} missing" if count < 4 else f"{count - 4} too many"
    with pytest.raises(InputError, match=rf"micro_batches = 4: step\(\) after {count} accumulate\(\), {wrong}; set"):
        optimizer.step()
    assert_untouched(before, optimizer)
    # The ways out that it names.
    other = copy.deepcopy(optimizer)
    other.micro_batches = max(1, count)
    other.step()
    optimizer.zero_grad()
    train(optimizer, params, gradients(4), 4)


def test_gradients_that_are_not_finite_or_missing_are_refused():
    params = weights()
    optimizer = invariant(params, ADAM, 2)
    train(optimizer, params, gradients(3), 2)  # one is waiting
    before = snapshot(optimizer)
    with pytest.raises(InputError, match="accumulate: no parameter has a gradient; call it after backward"):
        optimizer.accumulate()
    assert_untouched(before, optimizer)
    for bad in (1e200, math.inf, math.nan):  # the square of the first overflows
        (grads,) = gradients(1)
        grads[1][2] = bad
        give(params, grads)
        before = snapshot(optimizer)
        with pytest.raises(InputError, match="gradient: not finite, or its square is not; nothing was accumulated"):
            optimizer.accumulate()
        assert_untouched(before, optimizer)
    single = invariant(params, ADAM)
    before = snapshot(single)
    with pytest.raises(InputError, match="gradient: not finite"):
        single.step()
    assert_untouched(before, single)
    optimizer.accumulate(error_if_nonfinite=False)  # as torch's Adam takes them
    optimizer.step()
    assert not params[1].isfinite().all()


def test_no_gradient_at_all_is_no_step_as_for_torchs_adam():
    params = weights()
    optimizer = invariant(params, ADAM)
    optimizer.step()
    assert not optimizer.state
    assert_same(params, weights())


def test_sparse_gradients_are_refused():
    table, weight = nn.Embedding(5, 2, sparse=True), nn.Parameter(torch.ones(2))
    optimizer = InvariantAdam([{"params": [weight]}, {"params": table.parameters()}], micro_batches=2)
    (table(torch.tensor([1, 1])).sum() + weight.sum()).backward()
    with pytest.raises(InputError, match=r"gradient: one of shape \(5, 2\) is sparse; use dense ones"):
        optimizer.accumulate()
    assert not optimizer.state
    assert weight.grad is not None


def test_sharded_and_complex_parameters_are_refused(monkeypatch):
    from torch import distributed

    tensor = pytest.importorskip("torch.distributed.tensor")

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        shard = tensor.DTensor.from_local(torch.ones(4), tensor.init_device_mesh("cpu", (1,)), [tensor.Replicate()])
        optimizer = InvariantAdam(weights())
        for p, kind in ((nn.Parameter(shard), r"sharded \(DTensor\)"), (nn.Parameter(torch.ones(4) * 1j), "complex")):
            with pytest.raises(InputError, match=rf"params: one of shape \(4,\) is {kind}"):
                InvariantAdam([p])
            with pytest.raises(InputError, match=rf"params: one of shape \(4,\) is {kind}"):
                optimizer.add_param_group({"params": [p]})
        assert len(optimizer.param_groups) == 1
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"micro_batches": 0}, "micro_batches = 0: must be a finite number > 0"),
        ({"micro_batches": 2.5}, "micro_batches = 2.5: must be a whole number >= 1"),
        ({"micro_batches": "4"}, "micro_batches = '4': must be"),
        ({"micro_batches": math.nan}, "micro_batches = nan: must be"),
        ({"lr": True}, "lr = True: must be a finite number >= 0"),
        ({"decoupled": "no"}, "decoupled = 'no': must be True or False"),
        ({"lr": -1e-3}, "lr = -0.001: must be a finite number >= 0"),
        ({"betas": (0.9, 1.0)}, r"beta2 = 1: must be in \[0, 1\)"),
        ({"betas": (math.nan, 0.9)}, r"beta1 = nan: must be in \[0, 1\)"),
        ({"betas": 0.9}, r"betas = 0.9: must be two numbers, \(beta1, beta2\)"),
        ({"eps": -1e-8}, "eps = -1e-08: must be a finite number >= 0"),
        ({"weight_decay": math.inf}, "weight_decay = inf: must be a finite number >= 0"),
    ],
)
def test_bad_values_are_refused(options, message):
    with pytest.raises(InputError, match=message) as caught:
        InvariantAdam(weights(), **options)
    assert "\n" not in str(caught.value)
    optimizer = InvariantAdam(weights())
    if "micro_batches" in options:
        optimizer.micro_batches = options["micro_batches"]
        with pytest.raises(InputError, match=message):
            optimizer.step()
    else:
        with pytest.raises(InputError, match=message):
            optimizer.add_param_group({"params": weights(), **options})
        assert len(optimizer.param_groups) == 1


def test_a_closure_and_states_of_other_optimizers_are_refused():
    params = weights()
    optimizer = invariant(params, ADAM, 2)
    train(optimizer, params, gradients(4), 2)
    before = snapshot(optimizer)
    with pytest.raises(
        InputError, match=r"closure: goes with micro_batches = 1 and no accumulate\(\), not with 2 and 0"
    ):
        optimizer.step(lambda: torch.tensor(0.0))
    for other, message in (
        (torchs(weights(), ADAM, amsgrad=True), "amsgrad = True: InvariantAdam continues Adam and AdamW without it"),
        (torchs(weights(), ADAM, maximize=True), "maximize = True"),
        (torch.optim.SGD(weights(), 0.1), "state_dict: must be of InvariantAdam, or of torch's Adam or AdamW"),
    ):
        with pytest.raises(InputError, match=message):
            optimizer.load_state_dict(other.state_dict())
    for wrong in ({}, {"param_groups": [{"betas": (0.9, 0.99)}]}):
        with pytest.raises(InputError, match="state_dict: must be of InvariantAdam"):
            optimizer.load_state_dict(wrong)
    assert_untouched(before, optimizer)
