"""Train on texts of various lengths: padded batches of rows of about the same length, resumed after an interruption."""

import numpy as np

from storegate import StoreGate, pad

VOCABULARY, N = 500, 4000
rng = np.random.default_rng(0)
tokens = [rng.integers(1, VOCABULARY, length, dtype="i4") for length in rng.geometric(0.03, N) + 5]
labels = np.array([(row < 50).mean() > 0.1 for row in tokens], dtype="f4")  # texts with many of the first words

gate = StoreGate.open("texts.zarr", "reviews", mode="w")
gate.add_data({"tokens": tokens, "label": labels}, phase=(0.8, 0.1, 0.1), shuffle=0)
names = ["tokens", "label"]


def batches(phase, **options):
    return gate[phase][names].batches(64, bucket_by="length", collate=pad(0, multiple_of=8), **options)


def scores(weights, padded):
    return weights[padded].sum(axis=1) / (padded > 0).sum(axis=1)  # the weight of the padding is 0


def train(stream, weights, n_batches=None):
    for number, (padded, label) in enumerate(stream, start=1):
        wrong = 1 / (1 + np.exp(-scores(weights, padded))) - label
        np.subtract.at(weights, padded, 50 * (wrong / (padded > 0).sum(axis=1))[:, None] / len(label))
        weights[0] = 0
        if number == n_batches:
            break
    return weights


# An epoch, the first half of another, and what a checkpoint would hold.
stream = batches("train", seed=1)
weights = train(stream, np.zeros(VOCABULARY))
weights = train(stream, weights, n_batches=20)
checkpoint = {"weights": weights.copy(), "stream": stream.state_dict()}
for _ in range(8):
    weights = train(stream, weights)

# Whoever goes on from the checkpoint, in this process or another, gets the same batches.
again = batches("train", seed=1)
again.load_state_dict(checkpoint["stream"])
resumed = checkpoint["weights"]
for _ in range(8):
    resumed = train(again, resumed)
assert (resumed == weights).all()

right = sum(((scores(weights, padded) > 0) == label).sum() for padded, label in batches("test", shuffle=False))
print(f"{right / gate.sizes['test']:.2f} of the test texts are right")
