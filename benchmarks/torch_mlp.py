"""A plain MLP of PyTorch on features, for `head.py`: python torch_mlp.py FEATURES HELD_OUT.

Runs of 5, 10, 20, ... epochs are tried, each with its whole schedule, until one is not better than
the one before on the held-out rows.
"""

import sys
import time

import numpy as np
import torch

WIDTH, BATCH, RATE, DECAY, MOST = 512, 512, 1e-3, 1e-2, 80


def fit(rows, labels, epochs, num_classes):
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(rows.shape[1], WIDTH), torch.nn.ReLU(), torch.nn.Linear(WIDTH, num_classes)
    )
    steps = epochs * -(-len(rows) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        order = torch.randperm(len(rows))
        for start in range(0, len(rows), BATCH):
            batch = order[start : start + BATCH]
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(network(rows[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            schedule.step()
    return network


def accuracy(network, rows, labels):
    with torch.no_grad():
        return (network(rows).argmax(1) == labels).float().mean().item()


def main(path, held_out):
    data, chosen = np.load(path), torch.from_numpy(np.load(held_out))
    mean, std = data["features"].mean(0), data["features"].std(0) + 1e-6
    rows, test_rows = (
        torch.tensor((data[name] - mean) / std) for name in ("features", "test_features")
    )
    labels, test_labels = (
        torch.tensor(data[name], dtype=torch.long) for name in ("labels", "test_labels")
    )
    start, num_classes = time.process_time(), int(labels.max()) + 1
    best, epochs, tried = -1.0, 0, 5
    while tried <= MOST:
        network = fit(rows[~chosen], labels[~chosen], tried, num_classes)
        found = accuracy(network, rows[chosen], labels[chosen])
        if found <= best:
            break
        best, epochs, tried = found, tried, 2 * tried
    network = fit(rows, labels, epochs, num_classes)
    seconds = time.process_time() - start
    test = accuracy(network, test_rows, test_labels)
    print(f"RESULT PyTorch, hidden layer: {test:.4f} ({epochs} epochs, {seconds:.0f} s of CPU)")


if __name__ == "__main__":
    main(*sys.argv[1:])
