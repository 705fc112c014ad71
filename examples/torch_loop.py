"""Draw batches of tokens and classes from a data set of `omnitok tokenize`: python examples/torch_loop.py my-codes."""

import sys

import torch

from model.codes.loading import CodesDataset

codes = CodesDataset(sys.argv[1])
loader = torch.utils.data.DataLoader(codes, batch_size=8, shuffle=True)
for tokens, labels in loader:
    print(tuple(tokens.shape), labels.tolist())
