"""DeepSpeed, told what it trains on before it looks. Import `deepspeed` from here and nowhere else.

It takes a machine with the CUDA toolkit for one with a GPU.
"""

import os

import torch

if not torch.cuda.is_available():
    os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed

__all__ = ["deepspeed"]
