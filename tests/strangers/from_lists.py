"""Texts as lists of tokens, each of its own length."""

import json
from pathlib import Path

from storegate import StoreGate, pad

texts = [json.loads(line) for line in Path("texts.jsonl").read_text().splitlines()]
gate = StoreGate.open("store.zarr", "run1", mode="w")
gate.add_data(texts, phase=(0.9, 0.1, 0.0))
for batch in gate["train"].batches(32, bucket_by="length", collate=pad(0)):
    print(batch["tokens"].shape, batch["label"].shape)
    break
