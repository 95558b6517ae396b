"""What a user imports: names, old names, and what an import costs."""

import math
import subprocess
import sys

import pytest

import adasde
from adasde import sde
from adasde.common import EXTRAS


def test_every_public_name_is_there():
    for module in (adasde, sde):
        assert all(getattr(module, name).__doc__ for name in module.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        adasde.nothing  # noqa: B018


def test_old_names_are_kept_for_a_release():
    assert (adasde.Adam, adasde.RMSprop) == (adasde.AdamHyperparameters, adasde.RMSpropHyperparameters)
    assert adasde.SGD is adasde.SGDHyperparameters
    assert math.isfinite(adasde.Adam(1e-3, 0.9, 0.99, 1e-8).scaled(2).lr)


def test_the_package_imports_torch_only_for_what_needs_it():
    code = "import sys, adasde; assert 'torch' not in sys.modules; adasde.rescale; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_tools_need_torch_and_numpy_only():
    """The modules of all extras are blocked, but for those that torch itself needs."""
    code = f"""
import sys
for name in {sorted({name for names in EXTRAS.values() for name in names} - {"filelock", "jinja2"})}:
    sys.modules[name] = None
import adasde
print([name for name in adasde.__all__ if not getattr(adasde, name)], {{"filelock", "jinja2"}} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[] set()\n", done.stderr
