"""What processes that tests fork would have to import and load anyway, done once; see tests/helpers/runs.py."""

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

# its own lock is a semaphore of the system, which a process that is killed leaves behind
tqdm.set_lock(threading.RLock())
# threads would not survive the fork
torch.set_num_threads(1)
MINI = backbone.load_backbone("Mini", torch.device("cpu"))
