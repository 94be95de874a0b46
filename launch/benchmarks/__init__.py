"""The same networks in PyTorch, to be timed in the same run; JSON of past runs."""

from launch.benchmarks import torch_unet

# Task -> make(config, inputs, targets) -> (train step, forward), both blocking.
RIVALS = {'white_blood_cell': torch_unet.make}
