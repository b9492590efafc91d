"""What a process finds done that is forked from the server of `forking.forkserver`, to train.

All imports, and the kernels, which numba's cache gives: most of a second of each process. Nothing here starts a thread,
which a fork would lose.
"""

import training.train  # noqa: F401
from model.runtime.kernels import keypoints, masks

masks.warm_up()
keypoints.warm_up()
