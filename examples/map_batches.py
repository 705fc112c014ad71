"""Tokenize in a pipeline of your own: python examples/map_batches.py datasets, or ray."""

import sys
from pathlib import Path

from service.bulk.functions import TokenizeBatch

BUNDLE = "bundles/demo-vq"
rows = [{"image": path.read_bytes()} for path in sorted(Path("docs/samples").glob("igloo.*"))]

if sys.argv[1] == "datasets":
    import datasets

    made = datasets.Dataset.from_list(rows).map(TokenizeBatch(BUNDLE, size=128), batched=True, remove_columns="image")
    print([len(row["tokens"][0]) for row in made])
else:
    import ray

    tokenize = {"fn_constructor_args": (BUNDLE, 128), "compute": ray.data.ActorPoolStrategy(size=1)}
    made = ray.data.from_items(rows).map_batches(TokenizeBatch, **tokenize)
    print([row["tokens"].shape for row in made.iter_rows()])
