"""Model-samples per second of the same work in PyTorch: eager, one model after the other as in the
published scripts, and torch.func.vmap over populations.

    pip install torch numpy
    python benches/pytorch_baseline.py [--seconds 5] [--threads N]
    python benches/pytorch_baseline.py --whole-run /usr/share/datasets/fashion-mnist --epochs 1
    python benches/pytorch_baseline.py --device cuda [--models 256 1024 4096]

Batch 10, dropout 0, training only; one process per core. Prints one line per case.

A whole run is what the published scripts do for one model of the Fashion-MNIST zoo (50,000 images
to train on, 10,000 each for validation and test): training, evaluation of both splits and a saved
state per epoch. One model per core at a time; prints the seconds per model and epoch.

On a GPU it prints JSON lines: the rates of eager and vmap, the rate of multiply-adds that a large
float32 matrix product reaches (no TF32), and the bytes per second that a copy reads and writes.
"""
import argparse
import gzip
import json
import multiprocessing
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

BATCH = 10
ACTIVATIONS = dict(tanh=nn.Tanh, relu=nn.ReLU, sigmoid=nn.Sigmoid, gelu=nn.GELU)


def network(architecture, channels, activation):
    act = ACTIVATIONS[activation]
    if architecture == "cnn-s":
        return nn.Sequential(
            nn.Conv2d(channels, 8, 5), nn.MaxPool2d(2), act(), nn.Conv2d(8, 6, 5), nn.MaxPool2d(2), act(),
            nn.Conv2d(6, 4, 2), act(), nn.Flatten(), nn.Linear(36, 20), act(), nn.Linear(20, 10))
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3), nn.MaxPool2d(2), act(), nn.Conv2d(16, 32, 3), nn.MaxPool2d(2), act(),
        nn.Conv2d(32, 15, 3), nn.MaxPool2d(2), act(), nn.Flatten(), nn.Linear(60, 20), act(), nn.Linear(20, 10))


def data(architecture, channels, device="cpu"):
    side = 28 if architecture == "cnn-s" else 32
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(500, channels, side, side, generator=generator) * 2 - 1
    return images.to(device), torch.randint(0, 10, (500,), generator=generator).to(device)


def rate_of(step, samples, seconds):
    """Samples per second of `step`, called repeatedly for the given number of seconds."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    for _ in range(3):
        step(0)
    wait()
    started, steps = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        step(steps)
        steps += 1
        # Not after every step, so that a GPU can start a step while the previous one runs.
        if steps % 20 == 0:
            wait()
    wait()
    return steps * samples / (time.perf_counter() - started)


def eager(architecture, channels, activation, optimizer, seconds, device="cpu"):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = network(architecture, channels, activation).to(device)
    images, labels = data(architecture, channels, device)
    kind = torch.optim.Adam if optimizer == "adam" else lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9)
    optimizer = kind(model.parameters(), lr=1e-3)

    def step(number):
        at = number * BATCH % 500
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[at:at + BATCH]), labels[at:at + BATCH]).backward()
        optimizer.step()

    return rate_of(step, BATCH, seconds)


def vmapped(architecture, channels, activation, models, threads, seconds, device="cpu"):
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    base = network(architecture, channels, activation).to("meta")
    parameters, _ = torch.func.stack_module_state([network(architecture, channels, activation) for _ in range(models)])
    parameters = {name: p.detach().to(device) for name, p in parameters.items()}
    images, labels = data(architecture, channels, device)

    def loss(parameters, images, labels):
        return nn.functional.cross_entropy(torch.func.functional_call(base, parameters, (images,)), labels)

    gradient = torch.func.vmap(torch.func.grad(loss))
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in parameters.items()}

    def step(number):
        pick = torch.randint(0, 500, (models, BATCH), device=device)
        with torch.no_grad():
            for name, g in gradient(parameters, images[pick], labels[pick]).items():
                mean, square = moments[name]
                mean.lerp_(g, 0.1)
                square.mul_(0.999).addcmul_(g, g, value=0.001)
                parameters[name].addcdiv_(mean, square.sqrt().add_(1e-8), value=-1e-3)

    return rate_of(step, BATCH * models, seconds)


def card(seconds):
    """Multiply-adds and bytes per second of the GPU."""
    torch.backends.cuda.matmul.allow_tf32 = False
    n, length = 8192, 1 << 28
    a, b = torch.rand(n, n, device="cuda"), torch.rand(n, n, device="cuda")
    source, target = torch.empty(length, device="cuda"), torch.empty(length, device="cuda")
    return dict(
        name=torch.cuda.get_device_name(),
        fma=rate_of(lambda _: torch.mm(a, b), n**3, seconds),
        bytes=rate_of(lambda _: target.copy_(source), 8 * length, seconds),
    )


def on_gpu(populations, seconds):
    print(json.dumps(dict(card=card(seconds), torch=torch.__version__)), flush=True)
    for architecture, channels in (("cnn-s", 1), ("cnn-m", 3)):
        rate = eager(architecture, channels, "tanh", "adam", seconds, "cuda")
        print(json.dumps(dict(engine="PyTorch eager", architecture=architecture, models=1, rate=rate)), flush=True)
        for models in populations:
            try:
                rate = vmapped(architecture, channels, "tanh", models, 1, seconds, "cuda")
            except torch.cuda.OutOfMemoryError:
                rate = None
            print(json.dumps(dict(engine="PyTorch vmap", architecture=architecture, models=models, rate=rate)), flush=True)


def fashion_mnist(folder, name):
    def read(kind, header):
        return bytearray(gzip.decompress((folder / f"{name}-{kind}-ubyte.gz").read_bytes())[header:])

    images = torch.frombuffer(read("images-idx3", 16), dtype=torch.uint8).view(-1, 1, 28, 28)
    return (images / 255 - 0.5) / 0.5, torch.frombuffer(read("labels-idx1", 8), dtype=torch.uint8).long()


def whole_run(folder, epochs, seed):
    """Seconds of one model; batches are slices of tensors, faster than a DataLoader's."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    (images, labels), test = fashion_mnist(folder, "train"), fashion_mnist(folder, "t10k")
    validation = (images[50_000:], labels[50_000:])
    model = network("cnn-s", 1, "tanh")
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)
    started = time.perf_counter()
    for epoch in range(epochs):
        for batch in torch.randperm(50_000).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
        with torch.no_grad():
            for evaluated_images, evaluated_labels in (validation, test):
                for x, y in zip(evaluated_images.split(BATCH), evaluated_labels.split(BATCH)):
                    logits = model(x)
                    (nn.functional.cross_entropy(logits, y).item(), (logits.argmax(1) == y).sum().item())
        with tempfile.TemporaryFile() as file:
            torch.save(model.state_dict(), file)
    return time.perf_counter() - started


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=5)
    arguments.add_argument("--threads", type=int, default=multiprocessing.cpu_count())
    arguments.add_argument("--whole-run", type=Path, metavar="FOLDER")
    arguments.add_argument("--epochs", type=int, default=1)
    arguments.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments.add_argument("--models", type=int, nargs="+", default=[256, 1024, 4096])
    arguments = arguments.parse_args()
    if arguments.device == "cuda":
        on_gpu(arguments.models, arguments.seconds)
        return
    print(f"PyTorch {torch.__version__}, batch {BATCH}")
    context = multiprocessing.get_context("spawn")
    if arguments.whole_run:
        with context.Pool(arguments.threads) as pool:
            runs = [(arguments.whole_run, arguments.epochs, seed) for seed in range(arguments.threads)]
            seconds = max(pool.starmap(whole_run, runs)) / (arguments.epochs * arguments.threads)
        print(f"whole run, cnn-s, {arguments.threads} processes: {seconds:.2f} s a model and epoch")
        return
    for architecture, channels in (("cnn-s", 1), ("cnn-s", 3), ("cnn-m", 3)):
        case = (architecture, channels, "tanh", "adam", arguments.seconds)
        print(f"eager, {architecture}, {channels} channels, one core: {eager(*case):.0f}/s", flush=True)
        with context.Pool(arguments.threads) as pool:
            total = sum(pool.starmap(eager, [case] * arguments.threads))
        print(f"eager, {architecture}, {channels} channels, {arguments.threads} processes: {total:.0f}/s", flush=True)
        for models in (32, 128):
            rate = vmapped(architecture, channels, "tanh", models, arguments.threads, arguments.seconds)
            print(f"vmap over {models}, {architecture}, {channels} channels, {arguments.threads} threads: {rate:.0f}/s", flush=True)


if __name__ == "__main__":
    main()
