#!/usr/bin/env python3
"""`zoo benchmark` against the same in Python: equal scores, and both times.

    python benches/downstream.py ZOO [--zoo-binary target/release/zoo] [--check]

Scores: features of every state by NumPy, the same split, scikit-learn's Ridge with the same penalties. R^2 and tau
must be equal to three digits: exit code 1 if not. Times: the method of the published code, see `published`. --check
omits the times. Needs numpy, scikit-learn, scipy and the package in python/.
"""
import argparse
import json
import subprocess
import sys
import time
import warnings

import numpy as np
from scipy.stats import kendalltau
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

import modelzoo

LAMBDAS = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1e0, 1e1, 1e2, 1e3]
QUANTILES = [1, 25, 50, 75, 99]


def statistics(layers):
    """s(w) of one state: statistics of each layer's weights and biases."""
    out = []
    for values in layers:
        values = values.astype(np.float64).ravel()
        out += [values.mean(), values.var(), *np.percentile(values, QUANTILES)]
    return out


def standardised(x, of):
    mean, std = of.mean(0), of.std(0)
    return (x - mean) / np.where(std > 0, std, np.inf)


def ridge(x, y):
    """For every target, test R^2, tau and penalty of the regression that is best on validation."""
    train, val, test = (standardised(x[split], x["train"]) for split in ("train", "val", "test"))
    models = [Ridge(alpha=alpha).fit(train, y["train"]) for alpha in LAMBDAS]
    on_val, on_test = [m.predict(val) for m in models], [m.predict(test) for m in models]
    scores = []
    for target in range(y["train"].shape[1]):
        truth = {split: values[:, target] for split, values in y.items()}
        best = max(range(len(LAMBDAS)), key=lambda i: (r2_score(truth["val"], on_val[i][:, target]), i))
        found = on_test[best][:, target]
        scores.append((r2_score(truth["test"], found), kendalltau(truth["test"], found).statistic, LAMBDAS[best]))
    return scores


def classifier(x, y):
    """Test accuracy of the ridge classifier that is best on validation: targets of -1 and 1, the largest wins."""
    names = sorted(set(y["train"]))
    signs = np.array([[1.0 if name == label else -1.0 for name in names] for label in y["train"]])
    train, val, test = (standardised(x[split], x["train"]) for split in ("train", "val", "test"))
    models = [Ridge(alpha=alpha).fit(train, signs) for alpha in LAMBDAS]

    def accuracy(model, of, truth):
        return np.mean([names[i] == label for i, label in zip(model.predict(of).argmax(1), truth)])

    best = max(range(len(LAMBDAS)), key=lambda i: (accuracy(models[i], val, y["val"]), i))
    return accuracy(models[best], test, y["test"])


def published(vectors, bounds, y):
    """Seconds of the published baselines' method: quantile features of all states at once, layer by layer; then for
    every property and each of 17 penalties, X'X recomputed in double precision and a general solver.
    """
    start = time.monotonic()
    pieces = {split: np.split(x, bounds, axis=1) for split, x in vectors.items()}
    features = {
        split: np.concatenate([np.vstack([p.mean(1), p.var(1), np.percentile(p, QUANTILES, axis=1)]).T for p in of], 1)
        for split, of in pieces.items()
    }
    penalties = [digit * 10.0**power for power in range(-5, 3) for digit in (1, 3)] + [1e3]
    for x in (features, vectors):
        one = {split: np.hstack([v, np.ones((len(v), 1))]).astype(np.float64) for split, v in x.items()}
        for target in range(y["train"].shape[1]):
            for penalty in penalties:
                train = one["train"]
                weights = np.linalg.solve(train.T @ train + penalty * np.eye(train.shape[1]), train.T @ y["train"][:, target])
                for split in ("train", "val", "test"):
                    r2_score(y[split][:, target], one[split] @ weights)
    return time.monotonic() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo")
    parser.add_argument("--zoo-binary", default="target/release/zoo")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")

    command = [arguments.zoo_binary, "benchmark", arguments.zoo, "--json", "-q"]
    start = time.monotonic()
    without_trees = json.loads(subprocess.run([*command, "--no-trees"], check=True, capture_output=True).stdout)
    ours = time.monotonic() - start
    if not arguments.check:
        start = time.monotonic()
        subprocess.run(command, check=True, capture_output=True)
        with_trees = time.monotonic() - start

    zoo = modelzoo.open(arguments.zoo)
    vectors, weights, features, targets = {}, {}, {}, {}
    bounds = [parameter.start for parameter in zoo.parameters()][1:]
    for split in ("train", "val", "test"):
        vectors[split], targets[split] = zoo.weights(split=split, diverged=False)
        weights[split] = vectors[split].astype(np.float64)
        features[split] = np.array([statistics(np.split(vector, bounds)) for vector in vectors[split]])
    columns = {
        "test accuracy": lambda f: f["test_acc"],
        "generalisation gap": lambda f: f["train_acc"] - f["test_acc"],
        "epoch": lambda f: f["epoch"],
        "learning rate": lambda f: f["optim::lr"],
        "dropout": lambda f: f["model::dropout"],
        "weight decay": lambda f: f["optim::wd"],
    }
    scored = {(s["property"], s["predictor"]): s for s in without_trees["scores"]}
    faults = 0
    y = {split: np.stack([column(frame).to_numpy(np.float64) for column in columns.values()], 1)
         for split, frame in targets.items()}
    for predictor, x in (("ridge-weights", weights), ("ridge-statistics", features)):
        for name, (r2, tau, penalty) in zip(columns, ridge(x, y)):
            mine = scored.get((name, predictor))
            if mine is None:
                continue
            equal = abs(r2 - mine["r2"]) <= 5e-4 * max(1, abs(r2)) and abs(tau - mine["kendall_tau"]) < 5e-4
            faults += not equal
            print(f"{name:<20} {predictor:<18} R2 {mine['r2']:.4f} and {r2:.4f}, tau {mine['kendall_tau']:.4f} and "
                  f"{tau:.4f}, lambda {mine['lambda']:g} and {penalty:g}{'' if equal else '   DIFFERENT'}")
        for name, key in (("activation", "model::nlin"), ("initialisation", "model::init_type"),
                          ("optimiser", "optim::optimizer")):
            mine = scored.get((name, predictor))
            if mine is None:
                continue
            found = classifier(x, {split: frame[key].tolist() for split, frame in targets.items()})
            equal = abs(found - mine["accuracy"]) < 5e-4
            faults += not equal
            print(f"{name:<20} {predictor:<18} accuracy {mine['accuracy']:.4f} and {found:.4f}"
                  f"{'' if equal else '   DIFFERENT'}")
    if not arguments.check:
        theirs = published(vectors, bounds, y)
        states = sum(without_trees["states"])
        print(f"{states} states: zoo benchmark {with_trees:.1f} s, without trees {ours:.1f} s; published way, without "
              f"classifiers, {theirs:.1f} s: {theirs / ours:.1f} times as long")
    sys.exit(1 if faults else 0)


main()
