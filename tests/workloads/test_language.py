"""tasks/language.py and classification.py: losses, masks, fine-tuning, and runs that resume bit for bit."""

import copy
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_text import byte_level, parquet, prose
from tokenizers.processors import RobertaProcessing
from torch.nn import functional as F

from adasde.common import InputError, spec_hash
from adasde.experiments import plan
from adasde.experiments.artifacts import rows_digest
from adasde.scaling import optimizers
from adasde.scaling.hyperparameters import AdamHyperparameters
from adasde.training.checkpoint import read_weights
from adasde.training.loop import train
from adasde.training.run import Run
from adasde.workloads import language
from adasde.workloads.data.registry import DATASETS, dataset_named, load_arrays, prepare
from adasde.workloads.glue import accuracy, f1, load, pearson, spearman
from adasde.workloads.registry import WORKLOADS, load_workload, workload_named

MINI = ("wiki-gpt2", "wiki-roberta")


@pytest.fixture(scope="module")
def wiki(data_root):
    """The two language models' tasks on the real extract, and its arrays."""
    tensors = load_arrays("wiki-mini", data_root)
    return {name: language.load(name, tensors) for name in MINI}, tensors


@pytest.fixture(params=MINI)
def lm(request, wiki):
    return wiki[0][request.param]


def short(config, name, **changes):
    """The spec of one run of a language model, a few steps long."""
    config = copy.deepcopy(config)
    experiment = config["experiments"]["roberta-adam"]
    experiment["task"] = name
    experiment |= changes
    config |= {"experiments": {"lm": experiment}, "finetunings": {}, "simulations": {}, "figures": []}
    return plan.plan(config).runs


def test_an_untrained_model_knows_nothing(lm):
    """Its log-perplexity is that of guessing, log(vocabulary), within 2%."""
    torch.manual_seed(0)
    measured = lm.measure(lm.model(), sigma=0.35, eps=1e-8)
    assert measured["log_perplexity"] == pytest.approx(math.log(lm.dimensions.vocabulary), rel=0.02)
    assert measured["train_loss"] == pytest.approx(measured["log_perplexity"], rel=0.02)
    assert measured["noise_trace"] > 0
    assert {"gradient_norm", "squared_norm", "squared_gradient", "speed_k16"} <= measured.keys()


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
    first = lm.measure(model, 0.35, 1e-8)
    assert torch.equal(torch.get_rng_state(), state)
    assert lm.measure(model, 0.35, 1e-8) == first
    again = language.load("wiki-roberta", wiki[1])
    assert again.measure(model, 0.35, 1e-8) == first


@pytest.mark.parametrize("name", MINI)
def test_the_same_spec_and_a_resumed_run_are_bit_for_bit_equal(name, wiki, config, tmp_path):
    spec = short(config, name)["lm.sqrt.k1.s0"]
    task = wiki[0][name]
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
    rows, _ = train({**spec, "samples": 64, "evaluate": [64]}, wiki[0]["wiki-gpt2"])
    assert rows[-1][1] == 64 // 8 * 4
    assert all(math.isfinite(row[4]) for row in rows)


def test_a_clip_follows_the_batch_size(config, wiki):
    runs = short(config, "wiki-gpt2", ell={"value": [1, 2], "source": "ours"})
    clips = {run: spec["clip"] for run, spec in runs.items()}
    assert clips["lm.sqrt.k1.s0"] == 1.0
    assert clips["lm.sqrt.k4.s0"] == pytest.approx(0.5)
    assert clips["lm.svag.l2.s0"] == pytest.approx(2.0)
    spec = {**runs["lm.sqrt.k1.s0"], "clip": 1e-6}
    run = Run(spec, wiki[0]["wiki-gpt2"])
    run.advance(1)
    norm = sum(p.grad.square().sum() for p in run.model.parameters()) ** 0.5
    assert norm.item() == pytest.approx(1e-6, rel=1e-2)


def test_dropout_is_noise_of_the_run_and_absent_from_evaluations(wiki, config, monkeypatch):
    monkeypatch.setitem(language.SIZES, "gpt2-mini", replace(language.SIZES["gpt2-mini"], dropout=0.1))
    task = language.load("wiki-gpt2", wiki[1])
    spec = short(config, "wiki-gpt2")["lm.sqrt.k1.s0"]
    rows, _ = train(spec, task)
    assert rows_digest(train(spec, task)[0]) == rows_digest(rows)
    assert rows_digest(train(spec, wiki[0]["wiki-gpt2"])[0]) != rows_digest(rows)
    model = task.model()
    assert task.measure(model, 0.35, 1e-8) == task.measure(model, 0.35, 1e-8)


def test_fine_tuning_starts_from_the_encoder_and_a_new_head(wiki, config, tmp_path):
    runs = plan.plan(config).runs
    parent, child = runs["roberta-adam.sqrt.k4.s0"], runs["finetune-roberta.k4.s0"]
    assert child["parent"] == {"run": parent["run"], "spec_hash": spec_hash(parent)}
    assert (child["rule"], child["kappa"], child["batch_size"]) == ("finetune", 4, 16)
    train(parent, wiki[0]["wiki-roberta"], weights=tmp_path / "w")
    weights = read_weights(tmp_path / "w", child["parent"]["spec_hash"])
    task = load("wiki-articles", wiki[1], weights)
    model = task.model()
    for name, value in model.named_parameters():
        if name.startswith("roberta."):
            assert torch.equal(value, weights[name]), name
    rows, _ = train(child, task)
    found = {row[3]: row[4] for row in rows}
    assert 0 <= found["test_accuracy"] <= 1
    assert found["test_loss"] < 1.1 * math.log(task.classes)
    scratch, _ = train(child, load("wiki-articles", wiki[1]))
    assert scratch[0][4] != rows[0][4]
    with pytest.raises(InputError, match="w: weights of another run; name another file"):
        read_weights(tmp_path / "w", "0" * 64)
    (tmp_path / "w").write_bytes((tmp_path / "w").read_bytes()[:1000])
    with pytest.raises(InputError, match="w: no safetensors file, or a damaged one"):
        read_weights(tmp_path / "w", "0" * 64)


def test_weights_of_another_model_are_refused(wiki):
    other = wiki[0]["wiki-gpt2"].model().state_dict()
    with pytest.raises(InputError, match=r"pretrained: weights of another model; roberta\..* does not fit"):
        load("wiki-articles", wiki[1], other).model()


def test_weights_of_another_width_are_refused(wiki, monkeypatch):
    wide = replace(language.SIZES["roberta-mini"], width=128)
    weights = language.roberta(wide, wiki[0]["wiki-roberta"].known).state_dict()
    with pytest.raises(InputError, match=r"pretrained: weights of another model; roberta\..* does not fit"):
        load("wiki-articles", wiki[1], weights).model()


def test_fine_tunings_of_different_models_share_no_noise(config, wiki):
    runs = plan.plan(config).runs
    task = load("wiki-articles", wiki[1])
    orders = [Run(runs[f"finetune-roberta.k{kappa}.s0"], task).draws.draw(32)[0] for kappa in (1, 4)]
    assert not torch.equal(*orders)


def test_the_fixed_sample_is_of_many_classes(wiki):
    task = load("wiki-articles", wiki[1])
    labels = torch.cat([labels for _, labels in task.subset])
    assert len(labels) == language.SUBSET
    assert len(labels.unique()) > 30  # of 52, where 64 draws from equal classes give 37


def test_a_bare_command_names_what_fine_tuning_needs(adasde, config, data_root, tmp_path):
    spec = plan.plan(config).runs["finetune-roberta.k1.s0"]
    common = ("--data", data_root, "--out", tmp_path / "o.parquet")
    done = adasde("run", "--spec", json.dumps(spec), *common)
    assert done.returncode == 2
    assert "pretrained: the run starts from the weights of roberta-adam.sqrt.k1.s0" in done.stderr
    done = adasde("run", "--spec", json.dumps(spec), *common, "--pretrained", tmp_path / "no")
    assert "no: no such file" in done.stderr
    plain = plan.plan(config).runs["roberta-adam.sqrt.k1.s0"]
    done = adasde("run", "--spec", json.dumps(plain), *common, "--pretrained", tmp_path / "no")
    assert "starts from new weights; leave it out" in done.stderr
    assert not list(tmp_path.iterdir())


BAD = [
    ({"pretrained": "gpt2"}, "pretrained = 'gpt2': must be an experiment of wiki-roberta: roberta-adam"),
    ({"pretrained": "fashion-cnn-adam"}, "pretrained = 'fashion-cnn-adam': must be an experiment of wiki-roberta"),
    ({"task": "wiki-roberta"}, "task = 'wiki-roberta': does not start from pre-trained weights"),
    ({"task": "glue-rte"}, "must be an experiment of wikibooks-roberta: none of this config"),
    (
        {"batch_size": {"value": 48, "source": "ours"}},
        "evaluate.every = 64: batch size 48 does not divide it; 192 would",
    ),
    ({"task": "wiki-article"}, "task = 'wiki-article': must be one of fashion-cnn, "),
    ({"seeds": {"value": 0, "source": "ours"}}, "seeds.value: 0 is less than the minimum of 1"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[str(n) for n in range(len(BAD))])
def test_a_bad_finetuning_is_one_line(config, change, message):
    config["finetunings"]["finetune-roberta"] |= change
    with pytest.raises(InputError, match=f"finetunings.finetune-roberta.*{message}"):
        plan.plan(config)


def test_vocabularies_lengths_and_sizes_that_do_not_fit_are_named(wiki, data_root, monkeypatch):
    tensors = wiki[1]
    with pytest.raises(InputError, match="vocabulary: the tokenizer of the data knows 1024 tokens, but GPT-2 50257"):
        language.load("wikitext103-gpt2", tensors)
    with pytest.raises(InputError, match="vocabulary: the tokenizer of the data knows 1024 tokens, but RoBERTa 50265"):
        load("glue-rte", tensors)
    unpadded = tensors["tokenizer"].numpy().tobytes().replace(b'"<pad>"', b'"<gap>"')
    other = {**tensors, "tokenizer": torch.frombuffer(bytearray(unpadded), dtype=torch.uint8)}
    for load, name in ((language.load, "wiki-roberta"), (load, "wiki-articles")):
        with pytest.raises(InputError, match="the tokenizer of the data does not know <pad>, which RoBERTa needs"):
            load(name, other)
    cut = {**tensors, "validation-tokens": tensors["validation-tokens"][:20]}
    with pytest.raises(InputError, match="length = 64: longer than the 20 tokens of the split validation"):
        language.load("wiki-gpt2", cut)
    monkeypatch.setitem(WORKLOADS, "wiki-gpt2", replace(WORKLOADS["wiki-gpt2"], examples=10))
    with pytest.raises(InputError, match="wiki-gpt2: 16268 training examples in .*, but 10 in the registry"):
        load_workload("wiki-gpt2", data_root)


def test_the_registry_knows_how_many_examples_there_are(data_root):
    for name in (*MINI, "wiki-articles"):
        assert load_workload(name, data_root).size == workload_named(name).train_size


def test_scores_agree_with_their_definitions():
    predicted, labels = torch.tensor([1, 1, 0, 0, 1, 0]), torch.tensor([1, 0, 0, 1, 1, 0])
    assert accuracy(predicted, labels) == pytest.approx(4 / 6)
    assert f1(predicted, labels) == pytest.approx(2 * (2 / 3) * (2 / 3) / (4 / 3))
    # Matthews: (tp tn - fp fn) / sqrt((tp + fp)(tp + fn)(tn + fp)(tn + fn)), here all counts are 2, 2, 1, 1.
    assert pearson(predicted, labels) == pytest.approx((4 - 1) / 9)
    assert pearson(torch.zeros(6), labels) == 0.0
    numbers, other = torch.tensor([1.0, 2.0, 3.0, 10.0]), torch.tensor([1.0, 2.0, 4.0, 5.0])
    assert spearman(numbers, other) == pytest.approx(1.0)
    assert pearson(numbers, other) == pytest.approx(np.corrcoef(numbers, other)[0, 1])


# The columns of the real files, beside label and idx.
GLUE = {"rte": ("sentence1", "sentence2"), "sst2": ("sentence",), "stsb": ("sentence1", "sentence2")}


def test_of_a_pair_that_is_too_long_the_longer_sentence_is_cut(wiki):
    """As the library of tokenizers cuts it, by its strategy longest_first."""
    task = load("wiki-articles", wiki[1])
    plain, cutting = (language.text.tokenizer_of(wiki[1]["tokenizer"].numpy().tobytes().decode()) for _ in range(2))
    special = [(token, plain.token_to_id(token)) for token in ("</s>", "<s>")]
    cutting.post_processor = RobertaProcessing(*special, trim_offsets=False, add_prefix_space=False)
    cutting.enable_truncation(task.dimensions.length + 2, strategy="longest_first")
    end = special[0][1]
    for words in ((100, 5), (5, 100), (40, 41), (41, 40), (80, 81), (81, 80), (31, 200), (20, 20), (62, 1), (100, 100)):
        pair = [prose(seed, count) for seed, count in enumerate(words)]
        first, second = (plain.encode(sentence).ids for sentence in pair)
        assert task._cut(torch.tensor([*first, end, end, *second])).tolist() == cutting.encode(*pair).ids[1:-1]
    one = prose(0, 100)
    assert task._cut(torch.tensor(plain.encode(one).ids)).tolist() == cutting.encode(one).ids[1:-1]


BAD_GLUE = [
    ({"sentence": ["a", None], "label": [0, 1]}, "glue-sst2/train: row 2, sentence = None: must be a text"),
    ({"sentence": ["a", "b"], "label": [None, 1]}, "glue-sst2/train: row 1, label = None: must be a number"),
    ({"sentence": ["a", "b"], "label": ["x", "y"]}, "glue-sst2/train: row 1, label = 'x': must be a number"),
    (
        {"sentence": [list(range(1000))] * 2, "label": [0, 1]},
        "glue-sst2/train: row 1, sentence = [0, 1, 2, 3, 4, 5, ...]: must be a text",
    ),
    ({"sentence": ["a", "b"], "label": [-1, -1]}, "glue-sst2: a row has no label; the split is the hidden one"),
]


@pytest.mark.parametrize(("columns", "message"), BAD_GLUE, ids=["sentence", "label", "kind", "long", "hidden"])
def test_a_bad_row_of_glue_is_named(columns, message, tmp_path):
    folder = tmp_path / "glue-sst2"
    vocabulary = byte_level(list(language.text.SPECIAL), folder / "sources/tokenizer.json").get_vocab_size()
    entry = replace(dataset_named("glue-sst2"), train_size=2, test_size=2, tokenizer=("x/y", "0", vocabulary))
    for split in ("train", "validation"):
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        parquet(folder / f"sources/{split}/0.parquet", rows)
    with pytest.raises(InputError, match=re.escape(message)):
        entry.make(folder)
    assert not list(folder.glob("*.npy"))


@pytest.mark.parametrize("config_name", GLUE)
def test_glue_tasks_train_on_small_files_of_their_form(config_name, tmp_path, monkeypatch):
    real = dataset_named(f"glue-{config_name}")
    folder = tmp_path / real.name
    vocabulary = byte_level(list(language.text.SPECIAL), folder / "sources/tokenizer.json").get_vocab_size()
    entry = replace(real, train_size=40, test_size=12, tokenizer=("x/y", "0", vocabulary))
    monkeypatch.setitem(DATASETS, real.name, entry)
    size = language.Size(layers=1, width=32, heads=2, length=24, vocabulary=vocabulary, dropout=0.0)
    monkeypatch.setitem(language.SIZES, "roberta-large", size)
    for split, count in (("train", 40), ("validation", 12)):
        rows = [
            {column: prose(100 * n + i, 6) for i, column in enumerate(GLUE[config_name])}
            | {"label": n / 10 if config_name == "stsb" else n % 2, "idx": n}
            for n in range(count)
        ]
        parquet(folder / f"sources/{split}/{split}-00000-of-00001.parquet", rows)
    prepare(real.name, tmp_path)
    task = load(real.name, load_arrays(real.name, tmp_path))
    inputs, labels = task.gather(torch.arange(2))
    decoded = language.text.tokenizer_of((folder / "sources/tokenizer.json").read_text())
    pieces = [prose(100 + i, 6) for i in range(len(GLUE[config_name]))]
    shown = decoded.decode(inputs[1].tolist(), skip_special_tokens=False)
    assert shown.startswith("<s>" + "</s></s>".join(pieces)[: len(shown) // 2])
    model = task.model().train()
    optimizer = optimizers.build(model.parameters(), AdamHyperparameters(1e-2, 0.9, 0.99, 1e-8))
    for _ in range(2):
        optimizer.zero_grad()
        task.loss(model, inputs, labels).backward()
        optimizer.step()
    measured = task.measure(model, 0.25, 1e-6)
    assert measured.keys() >= set(task.scores)
    assert task.regression == (config_name == "stsb")
    parquet(folder / "sources/train/train-00000-of-00001.parquet", rows)
    with pytest.raises(InputError, match=f"glue-{config_name}: 12 rows in train, not 40"):
        entry.make(folder)
