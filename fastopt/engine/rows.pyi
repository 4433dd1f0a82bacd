import numpy as np
import numpy.typing as npt

class Table:
    counts: npt.NDArray[np.int64]
