"""The half of resnet_accuracy.sh that needs Python: trains the same recipe in PyTorch, and compares.

    python resnet_accuracy.py PREPARED_DATASET ZOO
"""
import json
import math
import statistics
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torchvision.models import resnet18

EPOCHS, BATCH, SEEDS = 5, 64, 4


def augmented(images, generator):
    """RandomCrop(32, padding=4) and RandomHorizontalFlip, with black pixels around."""
    padded = nn.functional.pad(images, (4, 4, 4, 4))
    out = torch.empty_like(images)
    for i in range(len(images)):
        top, left = torch.randint(0, 9, (2,), generator=generator).tolist()
        image = padded[i, :, top:top + 32, left:left + 32]
        out[i] = image.flip(-1) if torch.rand((), generator=generator) < 0.5 else image
    return out


def train(seed, images, labels, test_images, test_labels):
    """Test accuracy after the last epoch. Images are u8."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(1, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_uniform_(module.weight)
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    steps = EPOCHS * math.ceil(len(images) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images), generator=generator).split(BATCH):
            optimizer.zero_grad()
            x = (augmented(images[batch], generator) / 255 - 0.5) / 0.5
            nn.functional.cross_entropy(model(x), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    model.eval()
    hits = 0
    with torch.no_grad():
        for x, y in zip(test_images.split(500), test_labels.split(500)):
            hits += (model((x / 255 - 0.5) / 0.5).argmax(1) == y).sum().item()
    return hits / len(test_labels)


def main():
    data = load_file(sys.argv[1])
    splits = [part for s in ("train", "test") for part in (data[f"{s}_images"], data[f"{s}_labels"].long())]
    theirs = [train(seed, *splits) for seed in range(1, SEEDS + 1)]
    results = sorted(Path(sys.argv[2]).glob("models/*/result.json"))
    ours = [json.loads(path.read_text().splitlines()[-1])["test_acc"] for path in results]
    error = math.sqrt(sum(statistics.variance(side) / len(side) for side in (theirs, ours)))
    for name, side in (("PyTorch", theirs), ("layered", ours)):
        shown = " ".join(f"{100 * accuracy:.2f}" for accuracy in side)
        print(f"{name}: {100 * statistics.mean(side):.2f} ± {100 * statistics.stdev(side):.2f} ({shown})")
    print(f"difference in standard errors: {abs(statistics.mean(theirs) - statistics.mean(ours)) / error:.2f}")


if __name__ == "__main__":
    main()
