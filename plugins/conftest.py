"""The example is not installed with the workspace: its tests find it here when they are run from there."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).with_name("example")))
