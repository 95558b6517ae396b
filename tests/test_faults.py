"""What can go wrong will: configs that nobody would write, and later kills, full disks and damaged files."""

import copy
import warnings

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from adasde import InputError, ScalingWarning, cost
from adasde.plan import Plan, plan
from conftest import ROOT

pytestmark = pytest.mark.slow

SMOKE = yaml.safe_load((ROOT / "workflow/config/smoke.yaml").read_text())


def places(node, path=()):
    """The path of every value in a config, of mappings and lists as well."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


PLACES = sorted(places(SMOKE), key=str)
NUMBERS = st.one_of(
    st.sampled_from([0, 1, 2, 3, 7, 16, 64, -1, 0.5, 0.999, 1.0, 1e-300, 1e300, 10**30, float("nan"), float("inf")]),
    st.integers(-3, 10**6),
    st.floats(-2, 2),
)
WORDS = st.sampled_from(
    ["", "adam", "rmsprop", "sqrt", "svag", "cuda", "gpt2-adam", "fashion-cnn", "fashion-cnn-adam", "roberta-adam",
     "..", "a/b", "é", "x" * 500, "1e-3", "paper", "ours", "bf16"]
)  # fmt: skip
VALUES = st.one_of(
    NUMBERS,
    WORDS,
    st.none(),
    st.booleans(),
    st.lists(NUMBERS, max_size=3),
    NUMBERS.map(lambda value: {"value": value, "source": "ours"}),
    WORDS.map(lambda value: {"value": value, "source": "ours"}),
    st.lists(NUMBERS, min_size=1, max_size=3).map(lambda value: {"value": value, "source": "ours"}),
    st.sampled_from(PLACES).map(lambda path: value_at(SMOKE, path)),
)
CHANGES = st.lists(
    st.tuples(st.sampled_from(PLACES), st.sampled_from(["set", "set", "set", "delete", "add"]), WORDS, VALUES),
    min_size=1,
    max_size=3,
)


def value_at(node, path):
    for key in path:
        node = node[key]
    return node


def changed(changes):
    """The smoke config with values replaced, deleted or added where their places are still there."""
    config = copy.deepcopy(SMOKE)
    for path, how, word, value in changes:
        try:
            parent = value_at(config, path[:-1])
            if how == "delete":
                del parent[path[-1]]
            elif how == "add" and isinstance(parent, dict):
                parent[word] = copy.deepcopy(value)
            else:
                parent[path[-1]] = copy.deepcopy(value)
        except (KeyError, IndexError, TypeError):  # an earlier change has taken the place away
            continue
    return config


@settings(max_examples=500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
@given(CHANGES)
@example([(("experiments", "fashion-cnn-adam", "optimizer", "beta1", "source"), "set", "", SMOKE["experiments"])])
def test_a_random_config_is_planned_or_refused_in_one_line(changes):
    config = changed(changes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScalingWarning)
        try:
            found = plan(config)
            for spec in found.runs.values():
                cost.of(spec)
        except InputError as error:
            assert "\n" not in str(error)
            assert 0 < len(str(error)) < 1000
        else:
            assert isinstance(found, Plan)
