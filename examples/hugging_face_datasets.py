"""Load shards of `omnitok tokenize` with `datasets`: python examples/hugging_face_datasets.py my-codes."""

import sys
from pathlib import Path

import datasets

files = [str(path) for path in sorted(Path(sys.argv[1]).glob("images-*.parquet"))]
rows = datasets.load_dataset("parquet", data_files=files, split="train").with_format("numpy")
print(rows)
print(rows[0]["key"], rows[0]["label"], rows[0]["grid"], rows[0]["tokens"][:8])
