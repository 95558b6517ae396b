"""The examples in examples/, as a reader would run them."""

import os
import re
import subprocess
import sys

import pytest

from conftest import ROOT

pytestmark = pytest.mark.slow

LAST_LINES = {
    "plain_torch": r"batches up to (\d+) keep .*\nat (\d+): loss 0\.\d+$",
    "transformers_trainer": r"batches up to (\d+) keep (?s:.*)\nmean loss [\d.]+ at 8, [\d.]+ at 32$",
    "timm_recipe": r"at 16: beta1 0.9, beta2 0.98, last loss 0.\d+\nat 64: beta1 0.6, beta2 0.92, last loss 0.\d+$",
}


def test_every_example_is_run():
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(LAST_LINES)


@pytest.mark.parametrize("name", LAST_LINES)
def test_the_examples_run(name, tmp_path):
    command = [sys.executable, str(ROOT / f"examples/{name}.py")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(LAST_LINES[name], done.stdout.strip()), done.stdout
    assert not list(tmp_path.iterdir())
