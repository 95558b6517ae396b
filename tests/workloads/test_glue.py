"""Fine-tuning: pre-trained encoders, scores, and pairs of sentences."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.processors import RobertaProcessing

from adasde.common import InputError
from adasde.experiments.plan import plan
from adasde.scaling import optimizers
from adasde.scaling.gradient_noise import SpeedMeter
from adasde.scaling.hyperparameters import AdamHyperparameters
from adasde.training.checkpoint import read_weights
from adasde.training.loop import train
from adasde.training.run import Run
from adasde.workloads import language
from adasde.workloads.data.registry import DATASETS, dataset_named, load_arrays, prepare
from adasde.workloads.data.text import SPECIAL
from adasde.workloads.glue import accuracy, f1, load, pearson, spearman
from conftest import changed
from workloads.texts import byte_level, parquet, prose


def test_fine_tuning_starts_from_the_encoder_and_a_new_head(wiki, config, tmp_path):
    runs = plan(config).runs
    parent, child = runs["roberta-adam.sqrt.k4.s0"], runs["finetune-roberta.k4.s0"]
    assert (child.parent.run, child.parent.spec_hash) == (parent.run, parent.hash)
    assert (child.rule, child.kappa, child.batch_size) == ("finetune", 4, 16)
    train(parent, wiki[0]["wiki-roberta"], weights=tmp_path / "w")
    weights = read_weights(tmp_path / "w", child.parent.spec_hash)
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


def test_fine_tunings_of_a_seed_see_the_same_examples_whatever_model_they_start_from(config, wiki):
    runs = plan(config).runs
    task = load("wiki-articles", wiki[1])
    specs = [runs[f"finetune-roberta.k{kappa}.s0"] for kappa in (1, 4)]
    first, same, other = (Run(s, task).sampler.draw(32)[0] for s in (*specs, changed(specs[0], seed=1)))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_the_fixed_sample_is_of_many_classes(wiki):
    task = load("wiki-articles", wiki[1])
    loss, noise = (torch.cat([labels for _, labels in chunks]) for chunks in (task.subset, task.graded))
    assert (len(loss), len(noise)) == (language.SUBSET, language.GRADED)
    assert len(loss[:64].unique()) > 30  # of 52, where 64 draws from equal classes give 37


def test_a_bare_command_names_what_fine_tuning_needs(adasde, config, data_root, tmp_path):
    spec = plan(config).runs["finetune-roberta.k1.s0"]
    common = ("--data", data_root, "--out", tmp_path / "o.parquet")
    done = adasde("run", "--spec", spec.canonical, *common)
    assert done.returncode == 2
    assert "pretrained: the run starts from the weights of roberta-adam.sqrt.k1.s0" in done.stderr
    done = adasde("run", "--spec", spec.canonical, *common, "--pretrained", tmp_path / "no")
    assert "no/roberta-adam.sqrt.k1.s0.safetensors: no such file" in done.stderr
    plain = plan(config).runs["roberta-adam.sqrt.k1.s0"]
    done = adasde("run", "--spec", plain.canonical, *common, "--pretrained", tmp_path / "no")
    assert "starts from new weights; leave it out" in done.stderr
    assert not list(tmp_path.iterdir())


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
    plain, cutting = (Tokenizer.from_str(wiki[1]["tokenizer"].numpy().tobytes().decode()) for _ in range(2))
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


@pytest.mark.parametrize("config_name", GLUE)
def test_glue_tasks_train_on_small_files_of_their_form(config_name, tmp_path, monkeypatch):
    real = dataset_named(f"glue-{config_name}")
    folder = tmp_path / real.name
    vocabulary = byte_level(list(SPECIAL), folder / "sources/tokenizer.json").get_vocab_size()
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
    decoded = Tokenizer.from_str((folder / "sources/tokenizer.json").read_text())
    pieces = [prose(100 + i, 6) for i in range(len(GLUE[config_name]))]
    shown = decoded.decode(inputs[1].tolist(), skip_special_tokens=False)
    assert shown.startswith("<s>" + "</s></s>".join(pieces)[: len(shown) // 2])
    model = task.model().train()
    optimizer = optimizers.build(model.parameters(), AdamHyperparameters(1e-2, 0.9, 0.99, 1e-8))
    for _ in range(2):
        optimizer.zero_grad()
        task.loss(model, inputs, labels).backward()
        optimizer.step()
    measured = task.measure(model, SpeedMeter(0.25, 1e-6))
    assert measured.keys() >= set(task.scores)
    assert task.regression == (config_name == "stsb")
    parquet(folder / "sources/train/train-00000-of-00001.parquet", rows)
    with pytest.raises(InputError, match=f"glue-{config_name}: 12 rows in train, not 40"):
        entry.make(folder)
