"""tables.py, claims.py and the plots, on runs whose answer is known."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from adasde.analysis import tables
from adasde.analysis.claims.evaluation import COLUMNS, REASONS, evaluate_claims
from adasde.analysis.claims.finals import _spread
from adasde.analysis.claims.report import append, claims_summary, renew_claims, verdict, write_claims
from adasde.analysis.figures import captions
from adasde.analysis.figures.registry import draw_figure
from adasde.common import InputError
from adasde.experiments.artifacts import write_run
from adasde.experiments.plan import plan
from conftest import ROOT

METRICS = {
    "train_loss": 0.3,
    "test_loss": 0.4,
    "test_accuracy": 0.88,
    "squared_norm": 200.0,
    "gradient_norm": 0.5,
}


def write_runs(folder, spec, effects, seeds=3, noise=0.01, diverged=(), metrics=METRICS, device="x", draw=0):
    """Run files of one experiment: each metric is its constant, times 1 + effect of (rule, level), plus noise."""
    random = np.random.default_rng(draw)
    samples = [384 * k for k in range(1, 9)]
    paths = []
    for (rule, level), effect in effects.items():
        kappa, ell = (1, level) if rule == "svag" else (level, 1)
        for seed in range(seeds):
            name = f"{spec['experiment']}.{rule}.{'l' if rule == 'svag' else 'k'}{level:g}.s{seed}"
            own = {"run": name, "rule": rule, "kappa": kappa, "ell": ell, "batch_size": int(32 * kappa), "seed": seed}
            rows = []
            for n in samples:
                step, time = int(n * ell**2 / (32 * kappa)), n * 1e-8
                if (rule, level, seed) in diverged and n > samples[3]:
                    rows.append((name, step, time, "diverged", 1.0))
                    break
                for metric, constant in metrics.items():
                    value = constant * (1 + effect + noise * random.normal())
                    rows.append((name, step, time, metric, value))
            path = folder / f"{name}.parquet"
            write_run(path, rows, {**spec, **own, "samples": samples[-1]}, seconds=1.0, device=device)
            paths.append(path)
    return paths


@pytest.fixture
def trajectories(tmp_path, spec):
    def make(effects, **options):
        return tables.collect(write_runs(tmp_path, spec, effects, **options))[0]

    return make


FAITHFUL = {("sqrt", 1): 0.0, ("sqrt", 2): 0.0, ("sqrt", 4): 0.0, ("linear", 4): 0.3, ("none", 4): -0.001}


def judged(trajectories):
    table = evaluate_claims(trajectories)
    return dict(zip(table["id"], table["verdict"], strict=True)), table


def test_tables_hold_every_run(tmp_path, spec):
    trajectories, simulations, runs = tables.collect(write_runs(tmp_path, spec, FAITHFUL))
    assert len(runs) == 15
    assert len(trajectories) == 15 * 8 * len(METRICS)
    assert set(runs["lr"]) == {spec["optimizer"]["lr"]}
    assert np.isclose(trajectories["epoch"].max(), 8 * 384 / 60_000)
    assert runs["final_test_accuracy"].between(0.8, 1.2).all()
    tables.write(tmp_path / "out", trajectories, simulations, runs)
    pd.testing.assert_frame_equal(tables.read(tmp_path / "out"), trajectories)
    with pytest.raises(InputError, match="no such file; Snakemake makes it"):
        tables.read(tmp_path)


def test_a_damaged_or_foreign_table_is_refused(tmp_path, spec):
    tables.write(tmp_path, *tables.collect(write_runs(tmp_path / "runs", spec, FAITHFUL)))
    path = tmp_path / "trajectories.parquet"
    whole = path.read_bytes()
    noticed = 0
    for place in range(10, len(whole), len(whole) // 60):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1 :])
        try:
            table = tables.read(tmp_path)
        except InputError as error:
            assert "trajectories.parquet" in str(error)
            noticed += 1
        else:  # a byte of the footer that carries no value
            path.write_bytes(whole)
            pd.testing.assert_frame_equal(table, tables.read(tmp_path))
    assert noticed > 30
    for content in (b"", b"text", whole[:-5]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="damaged"):
            tables.read(tmp_path)
    pd.DataFrame({"run": ["a"]}).to_parquet(path)
    with pytest.raises(InputError, match="no table of trajectories .no column 'step'"):
        tables.read(tmp_path)


def test_groups_contain_the_baseline_for_every_rule(trajectories):
    groups = tables.groups(trajectories(FAITHFUL), "fashion-cnn-adam", "linear", "test_loss")
    assert list(groups.values) == [1, 4]
    assert groups.seeds == 3
    assert groups.values[4].shape == (3, 8)
    assert groups.batch_size == {1: 32, 4: 128}
    with pytest.raises(InputError, match="no values of test_los for experiment"):
        tables.groups(trajectories(FAITHFUL), "fashion-cnn-adam", "linear", "test_los")


def test_a_faithful_rule_is_reproduced_and_a_bad_alternative_told_apart(trajectories):
    # Noise far below the tolerance and ten seeds: the intervals are narrow against every threshold.
    found, table = judged(trajectories(FAITHFUL, seeds=10, noise=1e-3))
    assert found["final-accuracy.fashion-cnn-adam"] == "reproduced"
    assert {v for k, v in found.items() if k.startswith("trajectory.")} == {"reproduced"}
    assert found["closeness.fashion-cnn-adam.linear.k4"] == "reproduced"
    assert len(table) == 1 + len(METRICS) + 2
    assert (table["low"] <= table["high"]).all()
    assert set(table.columns) == set(COLUMNS)
    assert table["reason"].notna().all()
    figures = dict(zip(table["id"], table["figure"], strict=True))
    assert figures["final-accuracy.fashion-cnn-adam"] == "scaling-fashion-cnn-adam"
    assert figures["closeness.fashion-cnn-adam.linear.k4"] == "rules-fashion-cnn"


def test_a_broken_rule_is_not_reproduced(trajectories):
    found, table = judged(trajectories({**FAITHFUL, ("sqrt", 4): 0.2}, noise=1e-3))
    assert found["final-accuracy.fashion-cnn-adam"] == "not reproduced"
    assert {v for k, v in found.items() if k.startswith("trajectory.")} == {"not reproduced"}
    assert found["closeness.fashion-cnn-adam.none.k4"] == "not reproduced"
    notes = dict(zip(table["id"], table["note"], strict=True))
    assert "(outside at the end)" in notes["trajectory.fashion-cnn-adam.test_loss"]


def test_kappas_that_leave_no_average_are_judged_apart(tmp_path, spec):
    paths = write_runs(tmp_path, spec, FAITHFUL, seeds=10, noise=1e-3)
    extreme = {**spec, "optimizer": {**spec["optimizer"], "beta2": 0.36}}
    paths += write_runs(tmp_path / "k12", extreme, {("sqrt", 12): -0.2}, seeds=10, noise=1e-3)
    found, table = judged(tables.collect(paths)[0])
    assert found["final-accuracy.fashion-cnn-adam"] == "reproduced"
    assert found["final-accuracy-beyond.fashion-cnn-adam"] == "not reproduced"
    notes = dict(zip(table["id"], table["note"], strict=True))
    assert "k12" not in notes["final-accuracy.fashion-cnn-adam"]
    assert "k12" in notes["final-accuracy-beyond.fashion-cnn-adam"]


def test_too_much_noise_and_single_seeds_are_inconclusive(trajectories):
    found, _ = judged(trajectories({**FAITHFUL, ("sqrt", 4): 0.02}, noise=0.02))
    assert found["final-accuracy.fashion-cnn-adam"] == "inconclusive"
    single, table = judged(trajectories(FAITHFUL, seeds=1))
    assert set(single.values()) == {"inconclusive"}
    assert set(table["n"]) == {1}


def test_a_diverged_run_fails_its_claims_and_only_those(trajectories):
    found, table = judged(trajectories(FAITHFUL, seeds=10, noise=1e-3, diverged=[("sqrt", 4, 2)]))
    own = {k: v for k, v in found.items() if not k.startswith("closeness.")}
    assert set(own.values()) == {"not reproduced"}
    assert table["note"].str.contains("fashion-cnn-adam.sqrt.k4.s2 diverged").sum() == len(own) + 2
    found, _ = judged(trajectories(FAITHFUL, seeds=10, noise=1e-3, diverged=[("linear", 4, 0)]))
    assert found["closeness.fashion-cnn-adam.linear.k4"] == "reproduced"
    assert found["final-accuracy.fashion-cnn-adam"] == "reproduced"


WITH_SVAG = {**FAITHFUL, ("svag", 2): 0.0, ("svag", 4): 0.2}


def test_svag_is_judged_against_the_plain_run_and_changes_no_other_claim(trajectories):
    options = {"seeds": 10, "noise": 1e-3}
    found, table = judged(trajectories(WITH_SVAG, **options))
    own = {k: v for k, v in found.items() if k.startswith("svag.")}
    assert own == {f"svag.fashion-cnn-adam.{metric}": "not reproduced" for metric in METRICS}
    row = table[table["id"] == "svag.fashion-cnn-adam.test_loss"].iloc[0]
    assert row["place"] == "SVAG"
    assert row["note"].startswith("l2 ")
    assert ", l4 " in row["note"]
    rest = evaluate_claims(trajectories(FAITHFUL, **options))
    assert set(found) - set(own) == set(rest["id"])
    found, _ = judged(trajectories({**WITH_SVAG, ("svag", 4): 0.0}, **options))
    assert {v for k, v in found.items() if k.startswith("svag.")} == {"reproduced"}
    found, _ = judged(trajectories(WITH_SVAG, **options, diverged=[("svag", 4, 1)]))
    assert {v for k, v in found.items() if k.startswith("svag.")} == {"not reproduced"}
    assert found["final-accuracy.fashion-cnn-adam"] == "reproduced"


def test_an_experiment_of_svag_alone_makes_no_other_claim(trajectories):
    found, _ = judged(trajectories({("sqrt", 1): 0.0, ("svag", 2): 0.0}))
    assert set(found) == {f"svag.fashion-cnn-adam.{metric}" for metric in METRICS}


def test_groups_of_svag_are_by_ell_and_those_of_rules_hold_none_of_it(trajectories):
    table = trajectories(WITH_SVAG)
    groups = tables.groups(table, "fashion-cnn-adam", "svag", "test_loss")
    assert list(groups.values) == [1, 2, 4]
    assert {values.shape for values in groups.values.values()} == {(3, 8)}
    assert all(np.isfinite(values).all() for values in groups.values.values())
    assert set(groups.batch_size.values()) == {32}
    assert list(tables.groups(table, "fashion-cnn-adam", "linear", "test_loss").values) == [1, 4]
    assert tables.groups(table, "fashion-cnn-adam", "linear", "test_loss").values[1].shape == (3, 8)


def test_kappas_below_one_are_compared_with_the_baseline_too(trajectories):
    effects = {("sqrt", 0.5): 0.1, ("sqrt", 1): 0.0, ("sqrt", 2): 0.0, ("linear", 0.5): 0.3}
    found, table = judged(trajectories(effects, seeds=10, noise=1e-3))
    notes = dict(zip(table["id"], table["note"], strict=True))
    assert notes["trajectory.fashion-cnn-adam.test_loss"].startswith("k0.5 ")
    assert ", k2 " in notes["trajectory.fashion-cnn-adam.test_loss"]
    row = table[table["id"] == "closeness.fashion-cnn-adam.linear.k0.5"].iloc[0]
    assert row["value"] == pytest.approx(3.0, rel=0.1)
    assert row["low"] < row["value"] < row["high"]


def test_where_everything_diverges_every_claim_fails(trajectories):
    table = trajectories(WITH_SVAG)
    lost = table.drop_duplicates("run").assign(metric="diverged", value=1.0)
    found, _ = judged(lost)
    assert len(found) == 1 + 2 * len(METRICS) + 2
    assert set(found.values()) == {"not reproduced"}
    for figure in ("scaling-fashion-cnn-adam", "rules-fashion-cnn", "svag-fashion-cnn-adam"):
        plt.close(draw_figure(figure, lost))


@pytest.mark.parametrize(
    ("low", "high", "below", "wanted"),
    [
        (1, 2, True, "reproduced"),
        (4, 5, True, "not reproduced"),
        (1, 5, True, "inconclusive"),
        (4, 5, False, "reproduced"),
        (1, 2, False, "not reproduced"),
        (1, 5, False, "inconclusive"),
        (np.nan, np.nan, True, "inconclusive"),
        (np.inf, np.inf, False, "reproduced"),
    ],
)
def test_verdicts(low, high, below, wanted):
    assert verdict(low, high, 3, below) == wanted


def test_the_text_ends_with_the_count(trajectories):
    lines = claims_summary(evaluate_claims(trajectories(FAITHFUL))).splitlines()
    assert lines[0].split() == ["claim", "value", "95%", "interval", "n", "threshold", "verdict"]
    assert lines[-1].startswith("8 claims: ")


def test_every_claim_names_a_figure_of_the_scale_and_a_reason():
    table = evaluate_claims(*tables.both(ROOT / "results/reference/mini"))
    assert table["reason"].notna().all()
    drawn = {path.stem for path in (ROOT / "figures/reference/mini").iterdir()}
    assert set(table["figure"]) - {""} <= drawn
    assert {row.id.partition(".")[0] for row in table.itertuples() if not row.figure} == {
        "prediction-rank", "prediction-error",  # of the ablations
    }  # fmt: skip
    assert set(REASONS) == set(table["id"].str.partition(".")[0])


def test_captions_hold_setting_and_verdicts(tmp_path, trajectories, config):
    _, table = judged(trajectories(FAITHFUL))
    write_claims(table, tmp_path / "claims.csv")
    lines = captions.verdicts(tmp_path / "claims.csv")
    assert len(lines["rules-fashion-cnn"]) == 2
    assert "closer to the baseline than linear at kappa 4: **reproduced**" in lines["rules-fashion-cnn"][0]
    assert captions.verdicts(tmp_path / "none.csv") == {}
    (line,) = captions.setting(plan(config), "scaling-fashion-resnet-rmsprop")
    wanted = (
        "**fashion-resnet-rmsprop**: ResNet on Fashion-MNIST",
        "rmsprop, lr ",
        "beta ",
        "batch size",
        "seeds 0, 1",
    )
    for part in wanted:
        assert part in line


def test_the_readme_holds_the_claims_of_the_reference_tables(tmp_path):
    readme = ROOT / "README.md"
    copy = tmp_path / "README.md"
    copy.write_text(readme.read_text())
    reference = ROOT / "results/reference/mini"
    table = evaluate_claims(tables.read(reference), tables.read(reference, "simulations"))
    renew_claims(table, copy)
    assert copy.read_text() == readme.read_text(), "stale: run make reference"
    committed = pd.read_csv(reference / "claims.csv")
    assert committed["verdict"].tolist() == table["verdict"].tolist()
    assert np.allclose(committed[["value", "low", "high"]], table[["value", "low", "high"]])
    (tmp_path / "other.md").write_text("nothing here")
    with pytest.raises(InputError, match="other.md: no place for the claims"):
        renew_claims(table, tmp_path / "other.md")


@pytest.mark.parametrize("figure", ["scaling-fashion-cnn-adam", "rules-fashion-cnn", "svag-fashion-cnn-adam"])
@pytest.mark.parametrize(
    "options", [{}, {"seeds": 1}, {"diverged": [("linear", 4, 0), ("sqrt", 4, 1), ("svag", 2, 1)]}]
)
def test_figures_show_every_level_in_order_with_units(figure, options, trajectories, tmp_path):
    from adasde.analysis.figures import style

    drawn = draw_figure(figure, trajectories(WITH_SVAG, **options))
    labels = [text.get_text() for legend in drawn.legends for text in legend.get_texts()]
    if figure.startswith("scaling"):
        assert [label.split("$")[1] for label in labels[:3]] == ["B = 32", "B = 64", "B = 128"]
        assert not any("ell" in label for label in labels)
    elif figure.startswith("svag"):
        assert [label.split("$")[1] for label in labels[:3]] == [rf"\ell = {ell}" for ell in (1, 2, 4)]
        assert "plain run" in labels[0]
    else:
        assert [label.split(" (")[0] for label in labels[1:]] == [style.RULES[r] for r in ("sqrt", "linear", "none")]
    assert any("diverged" in label for label in labels) == ("diverged" in options)
    assert any("test accuracy (%)" in axes.get_ylabel() for axes in drawn.axes)
    assert all(axes.get_xlabel() for axes in drawn.axes[-3:])
    style.save(drawn, [tmp_path / "a.png", tmp_path / "a.pdf"])
    again = draw_figure(figure, trajectories(WITH_SVAG, **options))
    style.save(again, [tmp_path / "b.png", tmp_path / "b.pdf"])
    for kind in ("png", "pdf"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
    assert not plt.get_fignums()


def test_a_figure_without_its_runs_is_refused(trajectories):
    with pytest.raises(InputError, match="possible: none, since no run follows linear or lr-only or none"):
        draw_figure("rules-fashion-cnn", trajectories({("sqrt", 1): 0.0, ("sqrt", 2): 0.0}))


LANGUAGE = {"train_loss": 5.5, "log_perplexity": 5.5, "squared_norm": 900.0, "noise_trace": 100.0}


def test_the_trajectory_counts_from_where_noise_dominates(tmp_path, spec):
    """kappa 4 starts far off while its signal is above its noise, kappa 16 never gets below it."""
    random = np.random.default_rng(0)
    paths = []
    for kappa in (1, 4, 16):
        for seed in range(6):
            run = f"lm.sqrt.k{kappa}.s{seed}"
            rows = []
            for point in range(1, 9):
                step, time = 64 * point // kappa, 1e-6 * point
                for metric, constant in LANGUAGE.items():
                    off = 0.5 if metric == "log_perplexity" and kappa > 1 and point < 4 else 0.0
                    rows.append((run, step, time, metric, constant + off + 0.01 * random.normal()))
                # Signal over noise is kappa B |grad f|^2 / tr Sigma = 8 kappa square / 100.
                square = {1: 0.1, 4: 10.0 if point < 4 else 1.0, 16: 10.0}[kappa]
                rows.append((run, step, time, "squared_gradient", square))
            own = {"run": run, "kappa": kappa, "rule": "sqrt", "batch_size": 8 * kappa, "seed": seed}
            path = tmp_path / f"{run}.parquet"
            write_run(path, rows, {**spec, "task": "wiki-gpt2", "experiment": "lm", **own}, seconds=1.0)
            paths.append(path)
    table = tables.collect(paths)[0]
    found, judgements = judged(table)
    assert found["trajectory.lm.log_perplexity"] == "not reproduced"
    assert found["trajectory-settled.lm.log_perplexity"] == "reproduced"
    assert found["final-perplexity.lm"] == "reproduced"
    note = judgements.set_index("id").loc["trajectory-settled.lm.log_perplexity", "note"]
    assert "k4 from epoch" in note
    assert "k16 never" in note
    never = table.assign(value=table["value"].where(table["metric"] != "squared_gradient", 99.0))
    assert judged(never)[0]["trajectory-settled.lm.log_perplexity"] == "inconclusive"


def test_the_spread_of_final_values_is_not_blamed_for_its_own_noise():
    """Where there is no effect, hardly any spread of noise alone is called a failure, nor one of half the threshold."""
    random = np.random.default_rng(0)
    report = []
    for _ in range(200):
        values = {kappa: 0.4 + 0.027 * random.normal(size=(2, 1)) for kappa in (1, 2, 4, 8, 16)}
        found = _spread(tables.Groups(np.zeros(1), np.zeros(1), {}, values, {}))
        low, high = found["bounds"]
        append((low > 0.03, high < 0.03))
    failed, held = np.mean(report, axis=0)
    assert failed <= 0.05 + 2 * (0.05 * 0.95 / 200) ** 0.5
    assert held == 0
    exact = {kappa: np.full((2, 1), 0.4) + 1e-4 * random.normal(size=(2, 1)) for kappa in (1, 2)}
    found = _spread(tables.Groups(np.zeros(1), np.zeros(1), {}, exact, {}))
    assert found["bounds"][1] < 0.03
