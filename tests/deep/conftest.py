"""The deep tests run on one thread, as training does; on a busy machine more of them only wait for one another."""

import importlib.util

if importlib.util.find_spec("torch"):
    import torch

    torch.set_num_threads(1)
