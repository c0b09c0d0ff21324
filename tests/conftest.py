"""One thread for every test and every process that a test starts: sums come out the same to the last bit."""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import torch

torch.set_num_threads(1)
