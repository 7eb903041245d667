"""The one place that imports torchvision.

Its wheel registers shape rules for compiled operators at import. Beside a torch without CUDA those
operators are not loaded and the import dies with "operator torchvision::nms does not exist",
although data sets, transforms and models need none of them. An empty module in the place of
`torchvision._meta_registrations` makes the import work; it is used only where the plain one fails.
"""

from __future__ import annotations

import sys
from types import ModuleType


def import_torchvision() -> ModuleType:
    """torchvision, importable beside any torch. Raises ImportError where it is not installed."""
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        name = "torchvision._meta_registrations"
        sys.modules[name] = ModuleType(name)
        import torchvision
    return torchvision
