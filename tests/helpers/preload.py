"""Imports and loads once what all forked processes of tests need; see tests/helpers/runs.py."""

# ruff: noqa: F401
import threading

import sklearn.datasets
import torch
from tqdm import tqdm

import clip.text
import datasets.features
import trainers.baselines.craft
import trainers.loop
import utils.run
from clip import backbone

# its own lock is a system semaphore, which a killed process would leave behind
tqdm.set_lock(threading.RLock())
# threads would not survive the fork
torch.set_num_threads(1)
MINI = backbone.load_backbone("Mini", torch.device("cpu"))
