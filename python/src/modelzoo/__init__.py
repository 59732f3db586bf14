"""Model zoos as DataFrames, arrays, datasets and PyTorch modules.

import modelzoo

zoo = modelzoo.open("quickstart.tar.gz")
zoo.index                                               # a row per state
weights, rows = zoo.weights("train", epochs="last")     # (states, parameters)
zoo.model(17)                                           # an nn.Module
"""

from .architectures import Parameter, architecture
from .errors import Fault, FaultWarning, ZooError
from .opening import open
from .prepared import Prepared
from .zoo import Zoo

__all__ = ["Fault", "FaultWarning", "Parameter", "Prepared", "Zoo", "ZooError", "architecture", "open"]
__version__ = "0.1.0"
