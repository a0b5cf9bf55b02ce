"""pyarrow's compute functions: made at import time, so type checkers do not see them."""

from typing import Any

import pyarrow.compute

pc: Any = pyarrow.compute
