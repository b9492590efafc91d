"""What a process finds done that is forked from the server of `forking.forkserver`, to train.

All imports, those too that torch puts off until an optimizer is made, and the kernels, which numba's cache gives: seconds
of each process. Nothing here starts a thread, which a fork would lose.
"""

import torch._dynamo  # noqa: F401

import training.train  # noqa: F401
from model.runtime.kernels import keypoints, masks

masks.warm_up()
keypoints.warm_up()
