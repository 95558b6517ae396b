"""What a user imports: names, aliases, and what an import costs."""

import math
import subprocess
import sys

import pytest

import adasde


def test_the_package_imports_torch_only_for_what_needs_it():
    code = "import sys, adasde; assert 'torch' not in sys.modules; adasde.rescale; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        adasde.nothing  # noqa: B018
    assert math.isfinite(adasde.Adam(1e-3, 0.9, 0.99, 1e-8).scaled(2).lr)
