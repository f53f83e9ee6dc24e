"""What comes along when charts are imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import sys
from jumpstarter.states import Chart
Chart.compile({"states": ["a"]}).instance().start()
sys.exit(sys.argv[1] in sys.modules)
"""


@pytest.mark.parametrize("module", ["transitions", "anyio", "asyncio", "socket"])
def test_charts_bring_along_neither_the_library_nor_input_and_output(module):
    assert subprocess.run([sys.executable, "-c", CODE, module], check=False).returncode == 0
