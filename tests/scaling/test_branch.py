"""Branches: a rule that holds, one that breaks, and nothing changed in what was given."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import Adam

import adasde.scaling.branch as module
from adasde.common import InputError
from adasde.scaling.branch import BranchReport, branch


def loss(model, x, y):
    return (model(x) - y).square().mean()


@pytest.fixture(scope="module")
def trained():
    """A small regression near its end, where noise dominates; examples that it has not seen, and others."""
    torch.manual_seed(0)
    x = torch.randn(14000, 8)
    y = x.sum(1, keepdim=True) + 4 * torch.randn(14000, 1)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = Adam(model.parameters(), lr=3e-3, betas=(0.99, 0.995))
    for part in torch.arange(9600).split(4):
        optimizer.zero_grad()
        loss(model, x[part], y[part]).backward()
        optimizer.step()
    return model, optimizer, (x[9600:12000], y[9600:12000]), (x[12000:], y[12000:])


def test_the_rule_holds_where_noise_dominates_and_its_rivals_do_not(trained):
    model, optimizer, examples, held = trained
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict())), torch.get_rng_state()
    report = branch(model, optimizer, loss, examples, held, 4, kappas=(4, 16), tolerance=0.15)
    assert report.largest_kappa == report.forecast_kappa == 16
    assert set(report.verdicts.values()) == {"holds"}
    assert report.answer == "Yes, up to batch 64 (forecast 64)"
    assert report.samples == (576, 1152, 1728, 2304)  # 2,400 examples, in multiples of 4 x 64
    linear = branch(model, optimizer, loss, examples, held, 4, kappas=(16,), tolerance=0.15, rule="linear")
    none = branch(model, optimizer, loss, examples, held, 4, kappas=(16,), tolerance=0.15, rule="none")
    for rival in (linear, none):
        assert abs(rival.gaps[16][0]) > 3 * abs(report.gaps[16][0])
    assert str(before[0]) == str((model.state_dict(), optimizer.state_dict()))
    assert torch.equal(before[1], torch.get_rng_state())


def test_examples_come_once_and_in_one_order_for_every_batch_size(trained, monkeypatch):
    model, optimizer, examples, held = trained
    seen = {}
    step = module._step

    def spy(model, optimizer, loss, data, batch, micro_batch):
        seen.setdefault(len(batch), []).append(batch)
        step(model, optimizer, loss, data, batch, micro_batch)

    monkeypatch.setattr(module, "_step", spy)
    branch(model, optimizer, loss, examples, held, 4, kappas=(4, 16), repeats=2)
    orders = [torch.cat(batches) for batches in seen.values()]
    assert set(seen) == {4, 16, 64}
    for order in orders:
        assert torch.equal(order, orders[0])
        for repeat in order.chunk(2):
            assert len(repeat.unique()) == len(repeat)


def test_micro_batches_and_a_measure_of_one_s_own_change_nothing_else(trained):
    model, optimizer, examples, held = trained
    whole = branch(model, optimizer, loss, examples, held, 4, kappas=(4,), repeats=2)
    parts = branch(
        model,
        optimizer,
        loss,
        examples,
        lambda model: float(loss(model, *held).detach()),
        4,
        kappas=(4,),
        micro_batch=2,
        repeats=2,
    )
    assert np.allclose(whole.losses[4], parts.losses[4], rtol=1e-3)


def report(gaps, forecast=0.0, tolerance=0.1):
    base = np.zeros((3, 4))
    losses = {1.0: base} | {kappa: base + np.array(gap)[:, None] for kappa, gap in gaps.items()}
    return BranchReport(8, (8, 16, 24, 32), 1.0, losses, dict.fromkeys(gaps, forecast), tolerance)


def test_verdicts_are_those_of_the_interval():
    found = report({2.0: [0.01, 0.0, 0.02], 4.0: [0.1, 0.0, 0.2], 8.0: [0.5, 0.5, 0.51], 16.0: [np.nan, 0, 0]})
    assert found.verdicts == {2.0: "holds", 4.0: "undecided", 8.0: "breaks", 16.0: "breaks"}
    assert found.largest_kappa == 2
    half = 4.303 * np.std([0.01, 0.0, 0.02], ddof=1) / 3**0.5
    assert found.gaps[2.0] == pytest.approx((0.01, half))
    assert report({2.0: [0.5, 0.5, 0.5]}).answer == "No: no batch above 8 was seen to follow it (forecast 16)"
    assert report({2.0: [0.0, 0.3, 0.0]}).answer.startswith("Undecided: no batch above 8")
    assert "16          0.5000       0.5000 to 0.5000  0.0000    breaks" in str(report({2.0: [0.5, 0.5, 0.5]}))


def test_the_plot_says_the_answer_and_shows_every_kappa():
    pytest.importorskip("matplotlib")
    found = report({2.0: [0.01, 0.0, 0.02], 4.0: [0.5, 0.5, 0.51]}, forecast=0.02)
    (panel,) = found.plot().axes
    assert panel.get_title() == "Yes, up to batch 16 (forecast 32)"
    assert [label.get_text() for label in panel.get_xticklabels()] == ["16", "32"]
    assert [text.get_text() for text in panel.get_legend().get_texts()] == [
        "tolerance, 0.1", "forecast from the noise", "measured, 95% interval"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kappas": (1,)}, r"kappas = \(1,\): must hold one above 1"),
        ({"kappas": (256,)}, "examples = 2400: too few; 4 evaluations of batches of 1024 need 4096"),
        ({"repeats": 1}, "repeats = 1: must be a whole number >= 2"),
        ({"kappas": (0.3,)}, "kappa = 0.3: batch size 4 would become 1.2"),
        ({"kappas": (200,), "rule": "sqrt"}, "too few|too large for beta1"),
        ({"kappas": (100,), "batch_size": 1}, "kappa = 100: too large for beta1 = 0.99"),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(trained, options, words):
    model, optimizer, examples, held = trained
    with pytest.raises(InputError, match=words):
        branch(model, optimizer, loss, examples, held, **{"batch_size": 4, **options})


def test_a_loss_that_is_not_finite_is_no_baseline(trained):
    """Nothing is far from it, so no rule breaks against it."""
    model, optimizer, examples, held = trained
    found = iter([1.0, 1.0, 1.0, 1.0, np.inf])
    for measure, place in ((lambda model: np.nan, "at the branch point"), (lambda model: next(found), "at kappa = 1")):
        with pytest.raises(InputError, match=f"held: a loss of (nan|inf) {place}; must be finite"):
            branch(model, optimizer, loss, examples, measure, 4, kappas=(4,))
    assert next(found, None) is None


def test_a_loss_or_an_optimizer_of_another_model_is_refused(trained):
    model, optimizer, examples, held = trained
    other = nn.Linear(8, 1)
    wrong = (
        (model, optimizer, lambda _, x, y: loss(other, x, y)),
        (model, Adam(other.parameters(), 1e-3, (0.99, 0.995)), loss),
    )
    for parts in wrong:
        with pytest.raises(InputError, match="loss: .*depend"):
            branch(*parts, examples, held, 4, kappas=(4,))
    assert report({0.5: [0.0, 0.0, 0.0], 4.0: [0.5, 0.5, 0.5]}).answer.startswith("No: no batch above 8")
    with pytest.raises(InputError, match="must hold one above 1"):
        branch(model, optimizer, loss, examples, held, 4, kappas=(0.5,))
