"""Training steps of ResNet-18 on CIFAR's images, in images per second on the same cores: PyTorch eager,
channels first and last, and the layered engine; and an mlp on Fashion-MNIST's images in mini-batches of 10.

    pip install torch torchvision
    cargo build --release -p zoo-engine-layered --example step
    python benches/resnet_baseline.py [--rounds 3] [--threads 1]

With --device cuda, PyTorch alone, for tools/gpu_check.sh: mini-batches of 256 in float32 without and with TF32
and in bf16 (autocast), the latter two channels last, as JSON lines.

Each round measures all of them, one after the other, so that a noisy machine disturbs all alike; the best
round of each counts. Prints one line for each case, and the ratio to PyTorch's better layout.
"""
import argparse
import json
import subprocess
import sys
import time

STEP = "target/release/examples/step"


def best_of(step, images, seconds):
    step()
    started, best = time.perf_counter(), float("inf")
    while time.perf_counter() - started < seconds:
        at = time.perf_counter()
        step()
        best = min(best, time.perf_counter() - at)
    return images / best


def pytorch(case, batch, threads, seconds):
    import torch
    from torch import nn
    from torchvision.models import resnet18

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if case == "mlp":
        model = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        images = torch.rand(batch, 1, 28, 28)
    else:
        model = resnet18(num_classes=10)
        model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
        images = torch.rand(batch, 3, 32, 32)
    if case == "channels last":
        model, images = model.to(memory_format=torch.channels_last), images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch,))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step():
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return best_of(step, batch, seconds)


def on_cuda(seconds):
    import torch
    from torch import nn
    from torchvision.models import resnet18

    for precision in ("float32", "tf32", "bf16"):
        torch.manual_seed(0)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "float32"
        torch.backends.cudnn.benchmark = True
        layout = torch.contiguous_format if precision == "float32" else torch.channels_last
        model = resnet18(num_classes=10)
        model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
        model = model.cuda().to(memory_format=layout)
        images = torch.rand(256, 3, 32, 32, device="cuda").contiguous(memory_format=layout)
        labels = torch.randint(0, 10, (256,), device="cuda")
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

        def step():
            optimizer.zero_grad()
            with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
                loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            torch.cuda.synchronize()

        rate = best_of(step, 256, seconds)
        line = {"engine": f"PyTorch {precision}", "architecture": "resnet18", "batch": 256, "rate": rate}
        print(json.dumps(line), flush=True)


def layered(case, batch, threads):
    shape = ["mlp", "1", "28", "10"] if case == "mlp" else ["resnet18", "3", "32", "10"]
    command = [STEP, *shape, str(batch), "--", str(threads)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["train"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.device == "cuda":
        return on_cuda(3)
    if arguments.case:
        # A process for each case: no cache or thread of one helps or hinders another.
        case, batch, seconds = arguments.case
        print(pytorch(case, int(batch), arguments.threads, float(seconds)))
        return
    rates = {}
    for _ in range(arguments.rounds):
        for network, batch in (("resnet18", 32), ("resnet18", 128), ("mlp", 10)):
            cases = ["mlp"] if network == "mlp" else ["channels first", "channels last"]
            for case in cases:
                command = [sys.executable, __file__, "--threads", str(arguments.threads), "--case", case, str(batch), "4"]
                rate = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                key = (network, batch, f"PyTorch, {case}" if network != "mlp" else "PyTorch")
                rates[key] = max(rate, rates.get(key, 0))
            key = (network, batch, "layered")
            rates[key] = max(layered(network, batch, arguments.threads), rates.get(key, 0))
    print(f"{'network':<9} {'batch':>5} {'threads':>7} {'':<24} {'images/s':>10}")
    for (network, batch, name), rate in rates.items():
        others = [r for (n, b, who), r in rates.items() if (n, b) == (network, batch) and who != "layered"]
        ratio = f"  {rate / max(others):.2f} x PyTorch" if name == "layered" else ""
        print(f"{network:<9} {batch:>5} {arguments.threads:>7} {name:<24} {rate:>10,.1f}{ratio}")


if __name__ == "__main__":
    main()
