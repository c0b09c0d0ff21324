"""One thread for every test and every process that a test starts, or as many as VANDKIT_TEST_THREADS says."""

import os

THREADS = int(os.environ.get("VANDKIT_TEST_THREADS", "1"))
os.environ["OMP_NUM_THREADS"] = str(THREADS)

import torch

torch.set_num_threads(THREADS)
