"""Test accuracy of cells of the Fashion-MNIST grid after three epochs, trained by PyTorch: the half of
accuracy.sh that needs Python.

    python pytorch_accuracy.py PREPARED_DATASET > pytorch.json
    python pytorch_accuracy.py --compare pytorch.json ZOO...

All seeds of a cell are trained at once: `torch.func.vmap` over stacked parameters, PyTorch's own
modules, initialisations and optimisers (which are element-wise). Each model has its own order of
the samples and its own dropout masks. Prints one JSON object per cell; `--compare` a table of means,
deviations and the difference in standard errors.
"""
import argparse
import json
import math
import statistics
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

BATCH, EPOCHS, SEEDS = 10, 3, 16
ACTIVATIONS = dict(tanh=nn.Tanh, relu=nn.ReLU, sigmoid=nn.Sigmoid, gelu=nn.GELU)
INITS = dict(uniform=nn.init.uniform_, normal=nn.init.normal_, kaiming_uniform=nn.init.kaiming_uniform_,
             kaiming_normal=nn.init.kaiming_normal_)
# Activation, initialisation, dropout, optimiser, learning rate, weight decay.
CELLS = [
    ("tanh", "uniform", 0.0, "adam", 3e-4, 0.0),
    ("relu", "kaiming_uniform", 0.0, "adam", 1e-3, 1e-3),
    ("gelu", "normal", 0.0, "sgd", 1e-3, 1e-3),
    ("sigmoid", "kaiming_uniform", 0.5, "adam", 1e-3, 1e-3),
]
KEYS = ("model::nlin", "model::init_type", "model::dropout", "optim::optimizer", "optim::lr", "optim::wd")


def network(activation, init, dropout):
    act = ACTIVATIONS[activation]
    drop = [nn.Dropout(dropout)] if dropout else []
    modules = nn.Sequential(
        nn.Conv2d(1, 8, 5), nn.MaxPool2d(2), act(), *drop, nn.Conv2d(8, 6, 5), nn.MaxPool2d(2), act(), *drop,
        nn.Conv2d(6, 4, 2), act(), nn.Flatten(), nn.Linear(36, 20), act(), *drop, nn.Linear(20, 10))
    for module in modules:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            INITS[init](module.weight)
            module.bias.data.fill_(0.01)
    return modules


def train(cell, images, labels, test_images, test_labels):
    """Test accuracies of the models with the seeds 1 to SEEDS."""
    activation, init, dropout, kind, learning_rate, weight_decay = cell
    models = []
    for seed in range(1, SEEDS + 1):
        torch.manual_seed(seed)
        models.append(network(activation, init, dropout))
    parameters, _ = torch.func.stack_module_state(models)
    base = network(activation, init, dropout).to("meta")
    if kind == "adam":
        optimizer = torch.optim.Adam(parameters.values(), lr=learning_rate, weight_decay=weight_decay)
    else:
        optimizer = torch.optim.SGD(parameters.values(), lr=learning_rate, momentum=0.9, weight_decay=weight_decay)

    def loss(parameters, images, labels):
        return nn.functional.cross_entropy(torch.func.functional_call(base, parameters, (images,)), labels)

    losses = torch.func.vmap(loss, randomness="different")
    base.train()
    for _ in range(EPOCHS):
        orders = torch.stack([torch.randperm(len(images)) for _ in range(SEEDS)])
        for batch in orders.split(BATCH, dim=1):
            optimizer.zero_grad()
            losses(parameters, images[batch], labels[batch]).sum().backward()
            optimizer.step()
    base.eval()
    hits = torch.zeros(SEEDS)
    logits = torch.func.vmap(lambda p, x: torch.func.functional_call(base, p, (x,)), in_dims=(0, None))
    with torch.no_grad():
        for x, y in zip(test_images.split(500), test_labels.split(500)):
            hits += (logits(parameters, x).argmax(2) == y).sum(1)
    return (hits / len(test_labels)).tolist()


def of_zoos(zoos):
    """Accuracies of the zoos' cells after the last epoch."""
    cells = {}
    for model in sorted(model for zoo in zoos for model in (zoo / "models").iterdir()):
        params = json.loads((model / "params.json").read_text())
        last = json.loads((model / "result.json").read_text().splitlines()[-1])
        assert last["training_iteration"] == EPOCHS
        cells.setdefault(tuple(params[key] for key in KEYS), []).append(last["test_acc"])
    return cells


def compare(file, zoos):
    ours = of_zoos(zoos)
    print("| cell | PyTorch | zoo | difference in standard errors |\n| --- | --- | --- | --- |")
    for line in file.read_text().splitlines():
        line = json.loads(line)
        cell, theirs = tuple(line["cell"]), line["test_acc"]
        sides = [theirs, ours[cell]]
        means = [statistics.mean(side) for side in sides]
        deviations = [statistics.stdev(side) for side in sides]
        error = math.sqrt(sum(d * d / len(side) for d, side in zip(deviations, sides)))
        shown = [f"{100 * m:.2f} ± {100 * d:.2f}" for m, d in zip(means, deviations)]
        print(f"| {', '.join(map(str, cell))} | {shown[0]} | {shown[1]} | {abs(means[0] - means[1]) / error:.2f} |")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("paths", type=Path, nargs="+", help="prepared dataset, or with --compare zoo directories")
    arguments.add_argument("--compare", type=Path, metavar="PYTORCH_JSON")
    arguments = arguments.parse_args()
    if arguments.compare:
        return compare(arguments.compare, arguments.paths)
    torch.set_num_threads(1)
    data = load_file(arguments.paths[0])
    splits = [((data[f"{s}_images"] / 255 - 0.5) / 0.5, data[f"{s}_labels"].long()) for s in ("train", "test")]
    for cell in CELLS:
        accuracies = train(cell, *splits[0], *splits[1])
        print(json.dumps({"cell": cell, "test_acc": accuracies}), flush=True)
        print(cell, statistics.mean(accuracies), file=sys.stderr)


if __name__ == "__main__":
    main()
