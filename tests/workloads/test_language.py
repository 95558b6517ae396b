"""Language models: losses, masks, and runs that resume bit for bit."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from adasde.common import InputError
from adasde.experiments.artifacts import rows_digest
from adasde.experiments.plan import plan
from adasde.scaling import optimizers
from adasde.scaling.gradient_noise import SpeedMeter
from adasde.scaling.hyperparameters import AdamHyperparameters
from adasde.training.loop import train
from adasde.training.run import Run
from adasde.workloads import glue, language
from conftest import changed
from workloads.texts import MINI


@pytest.fixture(params=MINI)
def lm(request, wiki):
    return wiki[0][request.param]


def short(config, name, **changes):
    """The spec of one run of a language model, a few steps long."""
    config = copy.deepcopy(config)
    experiment = config["experiments"]["roberta-adam"]
    experiment |= {"workload": name, "epochs": {"value": 0.008, "source": "ours"}}
    experiment |= changes
    config |= {"experiments": {"lm": experiment}, "branches": {}, "finetunings": {}, "simulations": {}, "figures": []}
    return plan(config).runs


def test_an_untrained_model_knows_nothing(lm):
    """Its log-perplexity is that of guessing, log(vocabulary), within 2%."""
    torch.manual_seed(0)
    measured = lm.measure(lm.model(), SpeedMeter(0.35, 1e-8))
    assert measured["log_perplexity"] == pytest.approx(math.log(lm.dimensions.vocabulary), rel=0.02)
    assert measured["train_loss"] == pytest.approx(measured["log_perplexity"], rel=0.02)
    assert measured["noise_trace"] > 0
    assert {"gradient_norm", "squared_norm", "squared_gradient", "speed_k16"} <= measured.keys()


def test_the_noise_is_that_of_512_sequences_and_changes_no_loss(lm):
    torch.manual_seed(0)
    model = lm.model()
    counts = [sum(len(chunk[0]) for chunk in chunks) for chunks in (lm.subset, lm.graded)]
    assert counts == [language.SUBSET, language.GRADED] == [128, 512]
    found, whole = (lm.measure(model, meter) for meter in (None, SpeedMeter(0.35, 1e-8)))
    assert found == {name: whole[name] for name in ("train_loss", "log_perplexity", "squared_norm")}


def test_a_model_overfits_one_batch(lm):
    torch.manual_seed(0)
    model = lm.model().train()
    batch = lm.gather(torch.arange(4))
    optimizer = optimizers.build(model.parameters(), AdamHyperparameters(1e-2, 0.9, 0.99, 1e-8))
    for _ in range(300):
        optimizer.zero_grad()
        loss = lm.loss(model, *batch)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


def test_every_token_is_predicted_once_from_those_before_it(wiki):
    lm, tensors = wiki[0]["wiki-gpt2"], wiki[1]
    inputs, targets = lm.gather(torch.tensor([0, 1, 5]))
    tokens, length = tensors["train-tokens"].long(), lm.length
    assert inputs.shape == targets.shape == (3, length)
    assert torch.equal(inputs[:2].flatten(), tokens[: 2 * length])
    assert torch.equal(targets[:2].flatten(), tokens[1 : 2 * length + 1])
    model = lm.model().eval()
    changed = inputs.clone()
    changed[:, 40] = 7
    with torch.no_grad():
        before, after = (model(input_ids=x).logits for x in (inputs, changed))
    assert torch.allclose(before[:, :40], after[:, :40], atol=1e-5)
    assert not torch.allclose(before[:, 40:], after[:, 40:], atol=1e-3)


def test_the_head_on_masked_tokens_alone_gives_the_loss_of_the_full_head(wiki):
    lm = wiki[0]["wiki-roberta"]
    torch.manual_seed(0)
    model = lm.model().eval()
    inputs, places, targets = lm.gather(torch.arange(8))
    labels = torch.full_like(inputs, -100).scatter(1, places, targets)
    full = model(input_ids=inputs, labels=labels).loss
    assert lm.loss(model, inputs, places, targets).item() == pytest.approx(full.item(), rel=1e-6)
    weights = torch.arange(8.0) / 28
    each = lm.losses(model, inputs, places, targets)
    assert lm.loss(model, inputs, places, targets, weights=weights).item() == pytest.approx((each @ weights).item())


def test_masks_are_new_for_every_minibatch_and_as_roberta_draws_them(wiki):
    lm = wiki[0]["wiki-roberta"]
    torch.manual_seed(0)
    sequences = lm.sequences[:400]
    inputs, places, targets = lm.batch(sequences)
    other = lm.batch(sequences)[1]
    assert not torch.equal(places, other)
    assert places.shape == (400, round(lm.dimensions.masked * lm.length))
    assert all(len(set(row.tolist())) == len(row) for row in places)
    assert set(inputs[:, 0].tolist()) == {lm.known["<s>"]}
    assert set(inputs[:, -1].tolist()) == {lm.known["</s>"]}
    original = F.pad(sequences[:, :-1].long(), (1, 1))
    assert torch.equal(original.gather(1, places), targets)
    given = inputs.gather(1, places)
    n = given.numel()
    for share, count in ((0.8, (given == lm.known["<mask>"]).sum()), (0.1, (given == targets).sum())):
        assert abs(count / n - share) < 4 * (share * (1 - share) / n) ** 0.5 + 0.002  # a replacement can be the token
    assert not set(given.flatten().tolist()) & {lm.known[name] for name in ("<s>", "<pad>", "<unk>")}
    rest = torch.ones_like(inputs, dtype=torch.bool).scatter(1, places, False)
    rest[:, 0] = rest[:, -1] = False
    assert torch.equal(inputs[rest], original[rest])


def test_evaluations_see_the_same_masks_every_time(wiki):
    lm = wiki[0]["wiki-roberta"]
    torch.manual_seed(0)
    model = lm.model()
    state = torch.get_rng_state()
    first = lm.measure(model, SpeedMeter(0.35, 1e-8))
    assert torch.equal(torch.get_rng_state(), state)
    assert lm.measure(model, SpeedMeter(0.35, 1e-8)) == first
    again = language.load("wiki-roberta", wiki[1])
    assert again.measure(model, SpeedMeter(0.35, 1e-8)) == first


@pytest.mark.parametrize("name", MINI)
def test_the_same_spec_and_a_resumed_run_are_bit_for_bit_equal(name, wiki, config, tmp_path, monkeypatch):
    spec = short(config, name)["lm.sqrt.k1.s0"]
    task = wiki[0][name]
    monkeypatch.setattr(task, "graded", task.graded[:4])  # the noise of a few sequences is enough
    whole, _ = train(spec, task)
    again, _ = train(spec, task)
    assert rows_digest(again) == rows_digest(whole)

    class Killed(Exception):
        pass

    def kill(step, steps):
        if step >= 8:
            raise Killed

    with pytest.raises(Killed):
        train(spec, task, checkpoint=tmp_path / "c", every=0.0, report=kill)
    assert (tmp_path / "c").exists()
    resumed, _ = train(spec, task, checkpoint=tmp_path / "c")
    assert rows_digest(resumed) == rows_digest(whole)


def test_svag_is_one_pass_over_both_minibatches(wiki, config):
    runs = short(config, "wiki-gpt2", ell={"value": [1, 2], "source": "ours"})
    spec = runs["lm.svag.l2.s0"]
    run = Run(spec, wiki[0]["wiki-gpt2"])
    assert run.drawn == 16
    rows, _ = train(changed(spec, samples=64, evaluate=[64]), wiki[0]["wiki-gpt2"])
    assert rows[-1][1] == 64 // 8 * 4
    assert all(math.isfinite(row[4]) for row in rows)


def test_a_clip_follows_the_batch_size(config, wiki):
    runs = short(config, "wiki-gpt2", ell={"value": [1, 2], "source": "ours"})
    clips = {run: spec.clip for run, spec in runs.items()}
    assert clips["lm.sqrt.k1.s0"] == 1.0
    assert clips["lm.sqrt.k4.s0"] == pytest.approx(0.5)
    assert clips["lm.svag.l2.s0"] == pytest.approx(2.0)
    spec = changed(runs["lm.sqrt.k1.s0"], clip=1e-6)
    run = Run(spec, wiki[0]["wiki-gpt2"])
    run.advance(1)
    norm = sum(p.grad.square().sum() for p in run.model.parameters()) ** 0.5
    assert norm.item() == pytest.approx(1e-6, rel=1e-2)


def test_dropout_is_noise_of_the_run_and_absent_from_evaluations(wiki, config, monkeypatch):
    monkeypatch.setitem(language.SIZES, "gpt2-mini", replace(language.SIZES["gpt2-mini"], dropout=0.1))
    task, plain = language.load("wiki-gpt2", wiki[1]), wiki[0]["wiki-gpt2"]
    for each in (task, plain):
        monkeypatch.setattr(each, "graded", each.graded[:4])
    spec = short(config, "wiki-gpt2")["lm.sqrt.k1.s0"]
    rows, _ = train(spec, task)
    assert rows_digest(train(spec, task)[0]) == rows_digest(rows)
    assert rows_digest(train(spec, plain)[0]) != rows_digest(rows)
    model = task.model()
    assert task.measure(model, SpeedMeter(0.35, 1e-8)) == task.measure(model, SpeedMeter(0.35, 1e-8))


def test_vocabularies_and_lengths_that_do_not_fit_are_named(wiki):
    tensors = wiki[1]
    with pytest.raises(InputError, match="vocabulary: the tokenizer of the data knows 1024 tokens, but GPT-2 50257"):
        language.load("wikitext103-gpt2", tensors)
    with pytest.raises(InputError, match="vocabulary: the tokenizer of the data knows 1024 tokens, but RoBERTa 50265"):
        glue.load("glue-rte", tensors)
    unpadded = tensors["tokenizer"].numpy().tobytes().replace(b'"<pad>"', b'"<gap>"')
    other = {**tensors, "tokenizer": torch.frombuffer(bytearray(unpadded), dtype=torch.uint8)}
    for load, name in ((language.load, "wiki-roberta"), (glue.load, "wiki-articles")):
        with pytest.raises(InputError, match="the tokenizer of the data does not know <pad>, which RoBERTa needs"):
            load(name, other)
    cut = {**tensors, "validation-tokens": tensors["validation-tokens"][:20]}
    with pytest.raises(InputError, match="length = 64: longer than the 20 tokens of the split validation"):
        language.load("wiki-gpt2", cut)
