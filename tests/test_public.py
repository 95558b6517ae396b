"""What a user imports: names, old names, and what an import costs."""

import math
import subprocess
import sys

import pytest

import adasde
from adasde import sde


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


def test_the_tools_need_torch_and_numpy_and_no_posix_system():
    """fcntl is blocked, not looked for: Python's own subprocess, which torch imports, takes it where there is one."""
    code = (
        "import sys; sys.modules['fcntl'] = None; import adasde; adasde.rescale; adasde.NoiseMonitor; adasde.svag_loss;"
        "print({'filelock', 'matplotlib', 'pandas', 'pooch', 'pyarrow', 'pydantic', 'scipy', 'seaborn', 'transformers',"
        "'yaml'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
